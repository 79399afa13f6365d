//! From the text of a template to a plan: segments if it only names fields, else an interpreted one.

use gotmpl::Template;
use gotmpl::parse::{CommandNode, DefineNode, Expr, ListNode, Node, Parser, PipeNode};
use http::HeaderName;

use super::InvalidTemplate;
use super::field::{Field, Source};
use super::interpret::Interpreted;

/// The template's name in Go's error texts.
const NAME: &str = "requestLog";

/// How a line is made.
#[derive(Debug)]
pub(super) enum Plan {
    Segments(Vec<Segment>),
    Interpreted(Box<Interpreted>),
}

/// A part of a line.
#[derive(Debug)]
pub(super) enum Segment {
    Text(Box<str>),
    Value(Source),
    /// Through `js`.
    Escaped(Source),
}

/// Compiles a template that ends with a newline.
pub(super) fn compile(text: &str) -> Result<Plan, InvalidTemplate> {
    let parsed = Template::new(NAME)
        .parse(text)
        .map_err(InvalidTemplate::new)?;
    let (main, defines) = parse(text)?;
    check_end(text)?;
    if defines.is_empty()
        && let Some(segments) = main.nodes.iter().map(segment).collect()
    {
        return Ok(Plan::Segments(segments));
    }
    // A definition of the template's own name takes its place.
    let main = parsed.lookup(NAME).unwrap_or(&main);
    let named = parsed.templates().into_iter().filter(|name| *name != NAME);
    let named = named.filter_map(|name| Some((name, parsed.lookup(name)?)));
    let trees: Vec<(&str, &ListNode)> = named.collect();
    Interpreted::new(NAME, main, &trees).map(|template| Plan::Interpreted(Box::new(template)))
}

fn parse(text: &str) -> Result<(ListNode, Vec<DefineNode>), InvalidTemplate> {
    Parser::with_name(Some(NAME), text, "{{", "}}")
        .and_then(Parser::parse)
        .map_err(InvalidTemplate::new)
}

/// Go rejects an `{{end}}` or `{{else}}` without a beginning; this parser takes it for the end of
/// the whole text. So look whether an action behind the text is still seen.
fn check_end(text: &str) -> Result<(), InvalidTemplate> {
    const BEHIND: &str = "\u{1}behind the template\u{1}";
    let (main, _) = parse(&format!("{text}{{{{`{BEHIND}`}}}}"))?;
    let seen = main.nodes.last().is_some_and(|node| match node {
        Node::Action(action) => action
            .pipe
            .commands
            .iter()
            .flat_map(|command| &command.args)
            .any(|expr| matches!(expr, Expr::String(_, text) if **text == *BEHIND)),
        _ => false,
    });
    if seen {
        Ok(())
    } else {
        Err(InvalidTemplate::new(
            "template: requestLog: unexpected {{end}} or {{else}}",
        ))
    }
}

fn segment(node: &Node) -> Option<Segment> {
    match node {
        Node::Text(text) => Some(Segment::Text((*text.text).into())),
        Node::Action(action) => action_segment(&action.pipe),
        _ => None,
    }
}

/// `{{.A.B}}`, `{{.Request.Header.Get "X"}}`, and both through `js`, before or behind.
fn action_segment(pipe: &PipeNode) -> Option<Segment> {
    if !pipe.decl.is_empty() {
        return None;
    }
    match pipe.commands.as_slice() {
        [command] => match command.args.as_slice() {
            [Expr::Identifier(_, name), argument] if name == "js" => {
                argument_source(argument).map(Segment::Escaped)
            }
            _ => source(command).map(Segment::Value),
        },
        [command, function] => match function.args.as_slice() {
            [Expr::Identifier(_, name)] if name == "js" => source(command).map(Segment::Escaped),
            _ => None,
        },
        _ => None,
    }
}

fn argument_source(argument: &Expr) -> Option<Source> {
    match argument {
        Expr::Field(..) => source_of(std::slice::from_ref(argument)),
        Expr::Pipe(_, pipe) if pipe.decl.is_empty() => match pipe.commands.as_slice() {
            [command] => source(command),
            _ => None,
        },
        _ => None,
    }
}

fn source(command: &CommandNode) -> Option<Source> {
    source_of(&command.args)
}

fn source_of(args: &[Expr]) -> Option<Source> {
    let (Expr::Field(_, path), arguments) = args.split_first()? else {
        return None;
    };
    let path: Vec<_> = path.iter().map(|name| name.as_str()).collect();
    match (path.as_slice(), arguments) {
        (["Request", "Header", "Get"], [Expr::String(_, name)]) => {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            // Go keeps the Host apart from the headers.
            (name != http::header::HOST).then_some(Source::Header(name))
        }
        ([name], []) => Field::find("", name).map(Source::Field),
        ([owner, name], []) => Field::find(owner, name).map(Source::Field),
        _ => None,
    }
}
