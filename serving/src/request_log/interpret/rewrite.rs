//! Turns field access into calls and does the checks that Go's parser does.

use std::collections::BTreeSet;
use std::sync::Arc;

use gotmpl::parse::{
    ActionNode, BranchNode, CommandNode, Expr, ListNode, Node, Number, PipeNode, Pos, SmolStr,
    TemplateNode,
};

use super::{FUNCTIONS, MEMBER, SHOW, VERB};

/// Collects names and problems over all trees of a template.
#[derive(Default)]
pub(super) struct Rewriter {
    pub(super) named: BTreeSet<SmolStr>,
    pub(super) problems: Vec<String>,
    /// Variables in scope, innermost last.
    variables: Vec<SmolStr>,
    /// Loops around the present node.
    loops: usize,
}

// === impl Rewriter ===

impl Rewriter {
    /// One template, which begins with no variable but `$`.
    pub(super) fn tree(&mut self, tree: &ListNode) -> ListNode {
        self.variables = vec![SmolStr::new_static("$")];
        self.loops = 0;
        self.list(tree)
    }

    fn list(&mut self, list: &ListNode) -> ListNode {
        ListNode {
            pos: list.pos,
            nodes: list.nodes.iter().map(|node| self.node(node)).collect(),
        }
    }

    fn node(&mut self, node: &Node) -> Node {
        match node {
            Node::List(list) => Node::List(self.list(list)),
            Node::Action(action) => {
                let mut pipe = self.pipe(&action.pipe);
                if pipe.decl.is_empty() {
                    pipe.commands.push(call(action.pos, SHOW, Vec::new()));
                }
                Node::Action(ActionNode {
                    pos: action.pos,
                    pipe,
                })
            }
            Node::If(branch) => Node::If(self.branch(branch)),
            Node::With(branch) => Node::With(self.branch(branch)),
            Node::Range(branch) => {
                self.loops += 1;
                let branch = self.branch(branch);
                self.loops -= 1;
                Node::Range(branch)
            }
            Node::Template(template) => Node::Template(TemplateNode {
                pos: template.pos,
                name: template.name.clone(),
                pipe: template.pipe.as_ref().map(|pipe| self.pipe(pipe)),
            }),
            Node::Break(_) | Node::Continue(_) => {
                if self.loops == 0 {
                    self.problems
                        .push("{{break}} or {{continue}} outside {{range}}".to_owned());
                }
                node.clone()
            }
            Node::Text(_) | Node::Define(_) => node.clone(),
        }
    }

    /// What a branch declares is gone at its end.
    fn branch(&mut self, branch: &BranchNode) -> BranchNode {
        let outside = self.variables.len();
        let rewritten = BranchNode {
            pos: branch.pos,
            pipe: self.pipe(&branch.pipe),
            body: self.list(&branch.body),
            else_body: branch.else_body.as_ref().map(|body| self.list(body)),
        };
        self.variables.truncate(outside);
        rewritten
    }

    fn pipe(&mut self, pipe: &PipeNode) -> PipeNode {
        let mut commands = Vec::with_capacity(pipe.commands.len() + 1);
        for command in &pipe.commands {
            let piped = !commands.is_empty();
            self.command(command, piped, &mut commands);
        }
        for name in &pipe.decl {
            if pipe.is_assign {
                self.check_variable(name);
            } else {
                self.variables.push(name.clone());
            }
        }
        PipeNode {
            pos: pipe.pos,
            decl: pipe.decl.clone(),
            commands,
            is_assign: pipe.is_assign,
        }
    }

    /// Appends the commands that stand for `command`; `piped` if it gets one more argument from the
    /// one before.
    fn command(&mut self, command: &CommandNode, piped: bool, into: &mut Vec<CommandNode>) {
        let pos = command.pos;
        let Some((head, arguments)) = command.args.split_first() else {
            return;
        };
        let mut arguments: Vec<_> = arguments.iter().map(|each| self.argument(each)).collect();
        match head {
            Expr::Identifier(_, name) => {
                self.check_function(name);
                if name == "printf" && !arguments.is_empty() {
                    verbs(pos, piped, &mut arguments, into);
                }
                into.push(call(pos, name, arguments));
            }
            Expr::Field(..) | Expr::Variable(..) | Expr::Chain(..) if has_path(head) => {
                let (receiver, path) = self.receiver(head);
                let mut all = vec![receiver, Expr::String(pos, path)];
                all.append(&mut arguments);
                into.push(call(pos, MEMBER, all));
            }
            other => {
                if piped && !matches!(other, Expr::Pipe(..)) {
                    self.problems
                        .push("non executable command in pipeline".to_owned());
                }
                let mut args = vec![self.argument(other)];
                args.append(&mut arguments);
                into.push(CommandNode { pos, args });
            }
        }
    }

    fn argument(&mut self, expr: &Expr) -> Expr {
        match expr {
            Expr::Field(pos, _) | Expr::Variable(pos, _, _) | Expr::Chain(pos, _, _)
                if has_path(expr) =>
            {
                let (receiver, path) = self.receiver(expr);
                nested(call(*pos, MEMBER, vec![receiver, Expr::String(*pos, path)]))
            }
            Expr::Variable(_, name, _) => {
                self.check_variable(name);
                expr.clone()
            }
            Expr::Identifier(_, name) => {
                self.check_function(name);
                expr.clone()
            }
            Expr::Pipe(pos, pipe) => Expr::Pipe(*pos, self.pipe(pipe)),
            other => other.clone(),
        }
    }

    /// What a path starts from, and the path in one text.
    fn receiver(&mut self, expr: &Expr) -> (Expr, Arc<str>) {
        match expr {
            Expr::Field(pos, path) => (Expr::Dot(*pos), self.path(path)),
            Expr::Variable(pos, name, path) => {
                self.check_variable(name);
                let variable = Expr::Variable(*pos, name.clone(), Vec::new());
                (variable, self.path(path))
            }
            Expr::Chain(_, inner, path) => (self.argument(inner), self.path(path)),
            other => (other.clone(), "".into()),
        }
    }

    fn path(&mut self, path: &[SmolStr]) -> Arc<str> {
        self.named.extend(path.iter().cloned());
        // The method needs two fields that it does not name.
        if path.iter().any(|name| name == "ProtoAtLeast") {
            self.named.insert("ProtoMajor".into());
            self.named.insert("ProtoMinor".into());
        }
        path.join(".").into()
    }

    fn check_function(&mut self, name: &str) {
        if !FUNCTIONS.contains(&name) {
            self.problems.push(format!("function {name:?} not defined"));
        }
    }

    fn check_variable(&mut self, name: &str) {
        if !self.variables.iter().any(|known| known == name) {
            self.problems.push(format!("undefined variable {name:?}"));
        }
    }
}

/// Passes the arguments of `printf` through [`VERB`]; a piped one is the last.
fn verbs(pos: Pos, piped: bool, arguments: &mut [Expr], into: &mut Vec<CommandNode>) {
    let Some((format, values)) = arguments.split_first_mut() else {
        return;
    };
    let number = |at: usize| Expr::Number(pos, Number::Int(i64::try_from(at).unwrap_or(i64::MAX)));
    for (at, value) in values.iter_mut().enumerate() {
        let plain = std::mem::replace(value, Expr::Nil(pos));
        *value = nested(call(pos, VERB, vec![format.clone(), number(at), plain]));
    }
    if piped {
        into.push(call(pos, VERB, vec![format.clone(), number(values.len())]));
    }
}

fn has_path(expr: &Expr) -> bool {
    match expr {
        Expr::Field(_, path) | Expr::Variable(_, _, path) | Expr::Chain(_, _, path) => {
            !path.is_empty()
        }
        _ => false,
    }
}

fn call(pos: Pos, name: &str, arguments: Vec<Expr>) -> CommandNode {
    let mut args = vec![Expr::Identifier(pos, name.into())];
    args.extend(arguments);
    CommandNode { pos, args }
}

fn nested(command: CommandNode) -> Expr {
    let pos = command.pos;
    Expr::Pipe(
        pos,
        PipeNode {
            pos,
            decl: Vec::new(),
            commands: vec![command],
            is_assign: false,
        },
    )
}
