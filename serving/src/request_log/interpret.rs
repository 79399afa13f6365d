//! Templates with control structures, functions or variables, run by `gotmpl`.
//!
//! `gotmpl` knows maps but neither structs nor methods, so the syntax tree is rewritten first: every
//! `.A.B` becomes a call of [`MEMBER`], which looks the name up in a struct and passes arguments on to
//! a method. A struct is a function value that answers to the names of its members; that keeps `len`,
//! `range` and `index` from taking it for a map. Everything that is printed goes through [`SHOW`],
//! [`VERB`] or a function of ours, which print structs, nil pointers and floats as Go does.

mod data;
mod function;
mod rewrite;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use gotmpl::Template;
use gotmpl::parse::{ListNode, SmolStr};

use super::{InvalidTemplate, LogInput, MAX_ITERATIONS, MAX_LINE_BYTES};
use data::Snapshot;

/// `MEMBER receiver "A.B" arguments…`. No identifier of a template can be spelt like this.
const MEMBER: &str = "\0member";
/// What an action prints.
const SHOW: &str = "\0show";
/// `VERB format n value`: what `printf` is given.
const VERB: &str = "\0verb";

/// The functions of Go's templates.
const FUNCTIONS: [&str; 19] = [
    "and", "call", "eq", "ge", "gt", "html", "index", "js", "le", "len", "lt", "ne", "not", "or",
    "print", "printf", "println", "slice", "urlquery",
];

/// A rewritten template with its functions.
pub(super) struct Interpreted {
    name: String,
    template: Template,
    /// The members that are named anywhere in it: nothing else is built for a line.
    named: BTreeSet<SmolStr>,
}

/// Takes text until it would be longer than a line may be.
struct Line<'a> {
    out: &'a mut Vec<u8>,
    left: usize,
}

// === impl Interpreted ===

impl Interpreted {
    /// Checks what Go checks while parsing and `gotmpl` while executing, and rewrites the trees.
    pub(super) fn new(
        name: &str,
        main: &ListNode,
        others: &[(&str, &ListNode)],
    ) -> Result<Self, InvalidTemplate> {
        let mut rewriter = rewrite::Rewriter::default();
        let mut template = Template::new(name)
            .max_range_iters(MAX_ITERATIONS)
            .func(MEMBER, function::member)
            .func(SHOW, function::show)
            .func(VERB, function::verb)
            .func("call", function::call)
            .func("html", function::html)
            .func("index", function::index)
            .func("js", function::js)
            .func("print", function::print)
            .func("println", function::println)
            .func("urlquery", function::urlquery);
        for (name, tree) in others.iter().chain(&[(name, main)]) {
            template = template.add_parse_tree(name, rewriter.tree(tree));
        }
        match rewriter.problems.into_iter().next() {
            Some(problem) => Err(InvalidTemplate::new(problem)),
            None => Ok(Self {
                name: name.to_owned(),
                template,
                named: rewriter.named,
            }),
        }
    }

    /// Appends the line; false, with part of it perhaps appended, when that fails.
    pub(super) fn write(&self, input: &LogInput<'_>, out: &mut Vec<u8>) -> bool {
        let root = Arc::new(Snapshot::new(input, &self.named)).root();
        let mut line = Line {
            out,
            left: MAX_LINE_BYTES,
        };
        self.template
            .execute_template_fmt(&mut line, &self.name, &root)
            .is_ok()
    }
}

impl fmt::Debug for Interpreted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interpreted")
            .field("named", &self.named)
            .finish_non_exhaustive()
    }
}

// === impl Line ===

impl fmt::Write for Line<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.left = self.left.checked_sub(text.len()).ok_or(fmt::Error)?;
        self.out.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
