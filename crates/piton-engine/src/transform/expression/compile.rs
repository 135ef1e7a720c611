//! From the parsed expression to the form that is evaluated: names become slots, constant patterns
//! are compiled, and all that can be wrong without a record is said here.

use cel::{
    common::ast::{CallExpr, EntryExpr, Expr, LiteralValue, SourceInfo, operators as op},
    parser::Expression as Ast,
};

use super::{
    ExpressionError,
    functions::Function,
    value::{Val, excerpt},
};

/// An expression longer than this is refused, in bytes.
const LONGEST: usize = 4096;
/// Operators inside operators. A sum of more terms than this is refused, too.
const DEEPEST: usize = 200;
/// The name under which a whole record can be reached: `record["odd name"]`.
const RECORD: &str = "record";

/// An expression, ready to be evaluated.
#[derive(Debug)]
pub(super) enum Node {
    Value(Val<'static>),
    Quoted(String),
    /// The field of this slot.
    Field(usize),
    /// The variable of an enclosing macro, by its place on the stack.
    Local(usize),
    Not(Box<Node>),
    Negate(Box<Node>),
    /// `&&` (false decides) or `||` (true decides).
    Either {
        decides: bool,
        sides: Box<[Node; 2]>,
    },
    If(Box<[Node; 3]>),
    Compare(Order, Box<[Node; 2]>),
    Equal {
        not: bool,
        sides: Box<[Node; 2]>,
    },
    In(Box<[Node; 2]>),
    /// Whether a value is there and not null.
    Has(Box<Node>),
    Sum(Sum, Box<[Node; 2]>),
    Member(Box<Node>, String),
    Index(Box<[Node; 2]>),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    Call(Function, Vec<Node>),
    Matches(Box<Node>, Box<regex::Regex>),
    Macro(Box<Macro>),
}

/// An order comparison.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// An arithmetic operator.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sum {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// `list.exists(x, …)` and its kin.
#[derive(Debug)]
pub(super) struct Macro {
    pub(super) kind: MacroKind,
    pub(super) over: Node,
    pub(super) test: Option<Node>,
    pub(super) give: Option<Node>,
}

/// What a macro makes of a list.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum MacroKind {
    All,
    Exists,
    ExistsOne,
    Collect,
}

/// A field that an expression names.
#[derive(Debug, Clone)]
pub(super) struct FieldName {
    pub(super) name: String,
    /// Named outside `has(…)`: it has to be there where the fields are known.
    pub(super) needed: bool,
}

/// An expression, and what it names.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) node: Node,
    pub(super) fields: Vec<FieldName>,
    /// Each `field.member`.
    pub(super) members: Vec<(String, String)>,
}

/// Parses and compiles.
pub(super) fn compile(text: &str) -> Result<Compiled, ExpressionError> {
    if text.len() > LONGEST {
        let what = format!("the expression is longer than {LONGEST} bytes: split it up");
        return Err(ExpressionError { what, line: 1, column: 1 });
    }
    // No macros: `has`, `exists` and their kin arrive as calls, so that they need no list that
    // grows by copying itself.
    let parser = cel::Env::default().parser().enable_ident_escape_syntax(true);
    let (ast, source) = parser.parse_with_source_info(text).map_err(|e| syntax_error(&e))?;
    let (fields, members, locals) = (Vec::new(), Vec::new(), Vec::new());
    let mut compiler = Compiler { source, fields, members, locals, depth: 0 };
    let node = compiler.node(&ast)?;
    Ok(Compiled { node, fields: compiler.fields, members: compiler.members })
}

struct Compiler {
    source: SourceInfo,
    fields: Vec<FieldName>,
    members: Vec<(String, String)>,
    locals: Vec<String>,
    depth: usize,
}

type Made<T = Node> = Result<T, ExpressionError>;

impl Compiler {
    fn node(&mut self, ast: &Ast) -> Made {
        self.depth += 1;
        if self.depth > DEEPEST {
            return self.error(ast, format!("more than {DEEPEST} operators inside one another"));
        }
        let node = match &ast.expr {
            Expr::Literal(literal) => self.literal(ast, literal),
            Expr::Ident(name) => self.name(ast, name),
            Expr::Select(select) => self.select(&select.operand, &select.field),
            Expr::Call(call) => self.call(ast, call),
            Expr::List(list) => Ok(Node::List(self.all(&list.elements)?)),
            Expr::Map(map) => {
                let entries = map.entries.iter().filter_map(|entry| match &entry.expr {
                    EntryExpr::MapEntry(entry) => Some((&entry.key, &entry.value)),
                    EntryExpr::StructField(_) => None,
                });
                let pairs: Made<Vec<_>> =
                    entries.map(|(key, value)| Ok((self.node(key)?, self.node(value)?))).collect();
                Ok(Node::Map(pairs?))
            }
            Expr::Struct(_) | Expr::Comprehension(_) | Expr::Unspecified => {
                self.error(ast, "messages of a named type are not part of this language".into())
            }
        };
        self.depth -= 1;
        node
    }

    fn all(&mut self, asts: &[Ast]) -> Made<Vec<Node>> {
        asts.iter().map(|ast| self.node(ast)).collect()
    }

    fn boxed(&mut self, ast: &Ast) -> Made<Box<Node>> {
        Ok(Box::new(self.node(ast)?))
    }

    fn literal(&self, ast: &Ast, literal: &LiteralValue) -> Made {
        Ok(Node::Value(match literal {
            LiteralValue::Boolean(b) => Val::Bool(*b.inner()),
            LiteralValue::Int(i) => Val::Int(*i.inner()),
            LiteralValue::Double(x) => Val::Float(*x.inner()),
            LiteralValue::Null => Val::Null,
            LiteralValue::Bytes(bytes) => Val::Bytes(bytes.inner().to_vec().into()),
            LiteralValue::UInt(u) => match i64::try_from(*u.inner()) {
                Ok(int) => Val::Int(int),
                Err(_) => return self.error(ast, "the number is above 9223372036854775807".into()),
            },
            LiteralValue::String(text) => return Ok(Node::Quoted(text.inner().to_owned())),
        }))
    }

    fn name(&mut self, ast: &Ast, name: &str) -> Made {
        // A leading dot means the outermost scope: the record.
        if let Some(field) = name.strip_prefix('.') {
            return Ok(self.field(field, true));
        }
        if let Some(local) = self.locals.iter().rposition(|local| local == name) {
            return Ok(Node::Local(local));
        }
        if name == RECORD {
            let what = "'record' is the whole record: name a field of it, as in record[\"name\"]";
            return self.error(ast, what.into());
        }
        Ok(self.field(name, true))
    }

    fn field(&mut self, name: &str, needed: bool) -> Node {
        if let Some(slot) = self.fields.iter().position(|field| field.name == name) {
            self.fields[slot].needed |= needed;
            return Node::Field(slot);
        }
        self.fields.push(FieldName { name: name.to_owned(), needed });
        Node::Field(self.fields.len() - 1)
    }

    fn is_record(&self, ast: &Ast) -> bool {
        matches!(&ast.expr, Expr::Ident(name) if name == RECORD)
            && !self.locals.iter().any(|local| local == RECORD)
    }

    fn select(&mut self, operand: &Ast, field: &str) -> Made {
        if self.is_record(operand) {
            return Ok(self.field(field, true));
        }
        if let Expr::Ident(name) = &operand.expr
            && !self.locals.contains(name)
        {
            self.members.push((name.clone(), field.to_owned()));
        }
        Ok(Node::Member(self.boxed(operand)?, field.to_owned()))
    }

    fn call(&mut self, ast: &Ast, call: &CallExpr) -> Made {
        if let Some(target) = &call.target {
            if matches!(&target.expr, Expr::Ident(name) if name == "math") {
                return self.function(ast, &format!("math.{}", call.func_name), None, &call.args);
            }
            if let Some(kind) = macro_kind(&call.func_name, call.args.len()) {
                return self.list_macro(call, target, kind);
            }
            return self.function(ast, &call.func_name, Some(target), &call.args);
        }
        match (call.func_name.as_str(), call.args.as_slice()) {
            ("has", [argument]) => self.has(argument),
            (op::CONDITIONAL, [condition, yes, no]) => {
                Ok(Node::If(Box::new([self.node(condition)?, self.node(yes)?, self.node(no)?])))
            }
            (op::LOGICAL_NOT, [operand]) => Ok(Node::Not(self.boxed(operand)?)),
            (op::NEGATE, [operand]) => Ok(Node::Negate(self.boxed(operand)?)),
            (name, [a, b]) => self.binary(ast, name, a, b),
            (name, args) => self.function(ast, name, None, args),
        }
    }

    fn binary(&mut self, ast: &Ast, name: &str, a: &Ast, b: &Ast) -> Made {
        match (name, &b.expr) {
            (op::INDEX, Expr::Literal(LiteralValue::String(field))) if self.is_record(a) => {
                return Ok(self.field(field.inner(), true));
            }
            (op::INDEX, _) if self.is_record(a) => {
                return self.error(b, "record[…] takes the name of a field in quotes".into());
            }
            (op::IN, _) if self.is_record(b) => {
                let Expr::Literal(LiteralValue::String(field)) = &a.expr else {
                    return self.error(a, "a field's name before `in record` is in quotes".into());
                };
                return Ok(Node::Has(Box::new(self.field(field.inner(), false))));
            }
            _ => {}
        }
        let sum = |kind| move |sides| Node::Sum(kind, sides);
        let order = |kind| move |sides| Node::Compare(kind, sides);
        let make: Box<dyn Fn(Box<[Node; 2]>) -> Node> = match name {
            op::LOGICAL_AND => Box::new(|sides| Node::Either { decides: false, sides }),
            op::LOGICAL_OR => Box::new(|sides| Node::Either { decides: true, sides }),
            op::EQUALS => Box::new(|sides| Node::Equal { not: false, sides }),
            op::NOT_EQUALS => Box::new(|sides| Node::Equal { not: true, sides }),
            op::LESS => Box::new(order(Order::Less)),
            op::LESS_EQUALS => Box::new(order(Order::LessOrEqual)),
            op::GREATER => Box::new(order(Order::Greater)),
            op::GREATER_EQUALS => Box::new(order(Order::GreaterOrEqual)),
            op::ADD => Box::new(sum(Sum::Add)),
            op::SUBSTRACT => Box::new(sum(Sum::Subtract)),
            op::MULTIPLY => Box::new(sum(Sum::Multiply)),
            op::DIVIDE => Box::new(sum(Sum::Divide)),
            op::MODULO => Box::new(sum(Sum::Remainder)),
            op::IN => Box::new(Node::In),
            op::INDEX => Box::new(Node::Index),
            function => {
                let args = [self.node(a)?, self.node(b)?];
                return self.named(ast, function, args.into());
            }
        };
        Ok(make(Box::new([self.node(a)?, self.node(b)?])))
    }

    fn has(&mut self, argument: &Ast) -> Made {
        let node = match &argument.expr {
            Expr::Ident(name) if name != RECORD && !self.locals.contains(name) => {
                self.field(name, false)
            }
            Expr::Select(select) if self.is_record(&select.operand) => {
                self.field(&select.field, false)
            }
            Expr::Select(_) | Expr::Ident(_) => self.node(argument)?,
            Expr::Call(call) if call.func_name == op::INDEX => match call.args.as_slice() {
                [a, Ast { expr: Expr::Literal(LiteralValue::String(name)), .. }]
                    if self.is_record(a) =>
                {
                    self.field(name.inner(), false)
                }
                _ => self.node(argument)?,
            },
            _ => return self.error(argument, "has(…) takes a field".into()),
        };
        Ok(Node::Has(Box::new(node)))
    }

    fn list_macro(&mut self, call: &CallExpr, target: &Ast, kind: MacroKind) -> Made {
        let over = self.node(target)?;
        let Expr::Ident(variable) = &call.args[0].expr else {
            return self.error(&call.args[0], "a name for the list's items stands here".into());
        };
        self.locals.push(variable.clone());
        let parts = self.all(&call.args[1..]);
        self.locals.pop();
        let mut parts = parts?;
        // `map(x, give)`, `map(x, test, give)`, `filter(x, test)` and the others with a test.
        let give = if call.func_name == "map" { parts.pop() } else { None };
        Ok(Node::Macro(Box::new(Macro { kind, over, test: parts.pop(), give })))
    }

    fn function(&mut self, ast: &Ast, name: &str, target: Option<&Ast>, args: &[Ast]) -> Made {
        let mut nodes = Vec::with_capacity(args.len() + 1);
        if let Some(target) = target {
            nodes.push(self.node(target)?);
        }
        nodes.extend(self.all(args)?);
        self.named(ast, name, nodes)
    }

    fn named(&self, ast: &Ast, name: &str, mut args: Vec<Node>) -> Made {
        let Some((function, arity)) = Function::named(name) else {
            let known =
                Function::names().chain(["has", "exists", "all", "exists_one", "map", "filter"]);
            let hint = crate::config::nearest(name, known)
                .map_or_else(String::new, |nearest| format!(": did you mean '{nearest}'?"));
            return self.error(ast, format!("no function '{}'{hint}", excerpt(name)));
        };
        if !arity.contains(&args.len()) {
            let (least, most) = (arity.start(), arity.end());
            let wanted =
                if least == most { least.to_string() } else { format!("{least} to {most}") };
            let values = if *most == 1 { "value" } else { "values" };
            let what = format!("'{name}' takes {wanted} {values}, what it is called on included");
            return self.error(ast, what);
        }
        if let (Function::Matches, [_, Node::Quoted(pattern)]) = (function, args.as_slice()) {
            let regex = super::functions::regex(pattern);
            let regex = regex.or_else(|why| self.error(ast, why.to_string()))?;
            return Ok(Node::Matches(Box::new(args.swap_remove(0)), Box::new(regex)));
        }
        Ok(Node::Call(function, args))
    }

    fn error<T>(&self, at: &Ast, what: String) -> Made<T> {
        let offset = self.source.offset_for(at.id).map_or(0, |(start, _)| start as usize);
        let (mut line, mut column) = (1, 1);
        for character in self.source.source.chars().take(offset) {
            (line, column) = if character == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        Err(ExpressionError { what, line, column })
    }
}

fn macro_kind(name: &str, args: usize) -> Option<MacroKind> {
    match (name, args) {
        ("all", 2) => Some(MacroKind::All),
        ("exists", 2) => Some(MacroKind::Exists),
        ("exists_one" | "existsOne", 2) => Some(MacroKind::ExistsOne),
        ("filter", 2) | ("map", 2 | 3) => Some(MacroKind::Collect),
        _ => None,
    }
}

/// The parser's first complaint, without the list of everything that could have stood there.
fn syntax_error(errors: &cel::ParseErrors) -> ExpressionError {
    let Some(first) = errors.errors.first() else {
        return ExpressionError { what: "cannot be read".to_owned(), line: 1, column: 1 };
    };
    let at = |n: isize| usize::try_from(n).unwrap_or(1).max(1);
    let (line, column) = (at(first.pos.0), at(first.pos.1));
    let what = first.msg.strip_prefix("Syntax error: ").unwrap_or(&first.msg);
    let what = what.split(" expecting ").next().unwrap_or(what);
    let unexpected = what.strip_prefix("extraneous input ");
    let unexpected = unexpected.or_else(|| what.strip_prefix("mismatched input "));
    let what = if what.contains("Recursion limit") {
        "nested too deeply".to_owned()
    } else if what.contains("<EOF>") {
        "the expression ends too early".to_owned()
    } else if what.starts_with("Incomplete") {
        "it is not complete: `condition ? this : that`, `a && b`".to_owned()
    } else if what.starts_with("token recognition error at: '=") {
        "a single '=': to compare, write '=='".to_owned()
    } else if let Some(text) = what.strip_prefix("token recognition error at: ") {
        format!("cannot read {} (text ends with the quote that it began with)", excerpt(text))
    } else if let Some(input) = unexpected {
        format!("unexpected {} (and is '&&', or is '||', text stands in quotes)", excerpt(input))
    } else {
        excerpt(what)
    };
    ExpressionError { what, line, column }
}
