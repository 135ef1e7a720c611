//! Evaluates an expression on one row, borrowing fields from the batch. Only the fields that the
//! expression names are looked at, and a comparison of fields and constants allocates nothing.

use std::{borrow::Cow, cmp::Ordering};

use piton_connectors::batch::{Batch, Value};

use super::{
    compile::{Macro, MacroKind, Node, Order, Sum},
    number::Num,
    value::{Val, concatenation},
};

/// What evaluating gives.
pub(super) type Evaluated<'a> = Result<Val<'a>, Reason>;

/// Text that an expression makes may not be longer, in bytes.
pub(super) const LONGEST_TEXT: usize = 16 << 20;
/// What one evaluation may cost: about one unit for each item of a list that is read, made or
/// looked through. Nested macros over a long list end here rather than in an hour.
const FUEL: usize = 4_000_000;

/// Why an expression has no value for a record.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum Reason {
    #[error("'{value}' is not a number")]
    NotANumber { field: Option<String>, value: String },
    #[error("{value} is {kind}, where true or false is needed")]
    NotTrueOrFalse { value: String, kind: &'static str },
    #[error("{kind} has no '{name}'")]
    NoMembers { kind: &'static str, name: String },
    #[error("{value} is {kind}, where a list is needed; json(…) reads one from text")]
    NotAList { value: String, kind: &'static str },
    #[error("{function} cannot take {value}, which is {kind}")]
    Argument { function: &'static str, value: String, kind: &'static str },
    #[error("the pattern '{pattern}' cannot be used: {why}")]
    Pattern { pattern: String, why: String },
    #[error("'{text}' cannot be read as JSON: {why}")]
    Json { text: String, why: String },
    #[error("division by zero")]
    DivisionByZero,
    #[error("the number is too large")]
    Overflow,
    #[error("the expression makes too much of this record")]
    TooMuch,
    #[error("the record has two values for '{name}'")]
    TwoValues { name: String },
    #[error("it would become more than {most} {what}")]
    TooMany { most: usize, what: &'static str },
}

impl Reason {
    /// The field that is to blame, where one is.
    pub(crate) fn field(&self) -> Option<&str> {
        match self {
            Self::NotANumber { field, .. } => field.as_deref(),
            _ => None,
        }
    }
}

/// One row, and where the fields of the expression are in it.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) batch: &'a Batch,
    pub(super) index: usize,
    pub(super) columns: &'a [Option<usize>],
    pub(super) names: &'a [super::compile::FieldName],
}

/// One evaluation.
pub(super) struct Evaluation<'a> {
    row: Row<'a>,
    locals: Vec<Val<'a>>,
    fuel: usize,
}

impl<'a> Evaluation<'a> {
    pub(super) fn of(row: Row<'a>) -> Self {
        Self { row, locals: Vec::new(), fuel: FUEL }
    }

    /// Evaluates to true or false.
    pub(super) fn truth(&mut self, node: &'a Node) -> Result<bool, Reason> {
        match self.value(node)? {
            Val::Bool(b) => Ok(b),
            other => Err(Reason::NotTrueOrFalse { value: other.shown(), kind: other.kind() }),
        }
    }

    pub(super) fn value(&mut self, node: &'a Node) -> Evaluated<'a> {
        match node {
            Node::Value(value) => Ok(value.clone()),
            Node::Quoted(text) => Ok(Val::Quoted(text)),
            Node::Field(slot) => self.field(*slot),
            Node::Local(place) => {
                let value = self.locals.get(*place).cloned().unwrap_or(Val::Null);
                self.pay_for(&value)?;
                Ok(value)
            }
            Node::Not(operand) => Ok(Val::Bool(!self.truth(operand)?)),
            Node::Negate(operand) => {
                let value = self.value(operand)?;
                if value.is_null() {
                    return Ok(Val::Null);
                }
                calculate(Sum::Subtract, Num::Int(0), self.number(operand, &value)?)
            }
            Node::Either { decides, sides } => self.either(*decides, sides).map(Val::Bool),
            Node::If(parts) => {
                let [condition, yes, no] = &**parts;
                if self.truth(condition)? { self.value(yes) } else { self.value(no) }
            }
            Node::Compare(order, sides) => {
                let (a, b) = (self.value(&sides[0])?, self.value(&sides[1])?);
                Ok(Val::Bool(a.compare(&b).is_some_and(|found| order.holds(found))))
            }
            Node::Equal { not, sides } => {
                let (a, b) = (self.value(&sides[0])?, self.value(&sides[1])?);
                self.pay_for(&a)?;
                Ok(Val::Bool(a.equals(&b) != *not))
            }
            Node::In(sides) => self.contained(sides),
            Node::Has(operand) => self.has(operand),
            Node::Sum(sum, sides) => self.sum(*sum, sides),
            Node::Member(operand, name) => self.member(operand, name),
            Node::Index(sides) => self.index(sides),
            Node::List(items) => {
                self.pay(items.len())?;
                items.iter().map(|item| self.value(item)).collect::<Result<_, _>>().map(Val::List)
            }
            Node::Map(entries) => self.map(entries),
            Node::Call(function, args) => {
                let args: Vec<_> =
                    args.iter().map(|arg| self.value(arg)).collect::<Result<_, _>>()?;
                for arg in &args {
                    self.pay(arg.as_text().map_or(0, |text| text.len() / 64))?;
                    self.pay_for(arg)?;
                }
                function.call(args)
            }
            Node::Matches(operand, pattern) => self.matches(operand, pattern),
            Node::Macro(folded) => self.fold(folded),
        }
    }

    fn field(&mut self, slot: usize) -> Evaluated<'a> {
        let value = self.raw_field(slot);
        if let Value::Json(text) = value {
            self.pay(text.len() / 2)?;
        }
        Val::of(value)
    }

    fn raw_field(&self, slot: usize) -> Value<'a> {
        match self.row.columns.get(slot) {
            Some(Some(column)) => self.row.batch.get(self.row.index, *column),
            _ => Value::Absent,
        }
    }

    /// One side that decides is enough, whatever is wrong with the other.
    fn either(&mut self, decides: bool, sides: &'a [Node; 2]) -> Result<bool, Reason> {
        let first = self.truth(&sides[0]);
        if first == Ok(decides) {
            return Ok(decides);
        }
        let second = self.truth(&sides[1]);
        if second == Ok(decides) {
            return Ok(decides);
        }
        first.and(second)
    }

    fn contained(&mut self, sides: &'a [Node; 2]) -> Evaluated<'a> {
        let item = self.value(&sides[0])?;
        // A list of constants, as in `carrier in ["AA", "UA"]`, is looked through where it lies.
        if let Node::List(nodes) = &sides[1] {
            self.pay(nodes.len() / 16)?;
            for node in nodes {
                if item.equals(&self.value(node)?) {
                    return Ok(Val::Bool(true));
                }
            }
            return Ok(Val::Bool(false));
        }
        let container = self.value(&sides[1])?;
        self.pay_for(&container)?;
        Ok(Val::Bool(match &container {
            Val::Null => false,
            Val::List(items) => items.iter().any(|other| item.equals(other)),
            Val::Map(entries) => {
                item.as_text().is_some_and(|key| entries.iter().any(|(name, _)| name == key))
            }
            other => return Err(not_a_list(other)),
        }))
    }

    fn has(&mut self, operand: &'a Node) -> Evaluated<'a> {
        if let Node::Field(slot) = operand {
            return Ok(Val::Bool(!matches!(self.raw_field(*slot), Value::Absent | Value::Null)));
        }
        match self.value(operand) {
            Ok(value) => Ok(Val::Bool(!value.is_null())),
            Err(Reason::NoMembers { .. }) => Ok(Val::Bool(false)),
            Err(other) => Err(other),
        }
    }

    fn sum(&mut self, sum: Sum, sides: &'a [Node; 2]) -> Evaluated<'a> {
        let (a, b) = (self.value(&sides[0])?, self.value(&sides[1])?);
        if a.is_null() || b.is_null() {
            return Ok(Val::Null);
        }
        if let Sum::Add = sum {
            let length = |value: &Val<'_>| value.as_text().map_or(0, str::len);
            let longer = length(&a) + length(&b);
            if longer > LONGEST_TEXT {
                return Err(Reason::TooMuch);
            }
            self.pay(longer / 16)?;
            if let Some(text) = concatenation(&a, &b) {
                return Ok(text);
            }
        }
        match (sum, a, b) {
            (Sum::Add, Val::List(mut items), Val::List(more)) => {
                self.pay(more.len())?;
                items.extend(more);
                Ok(Val::List(items))
            }
            (_, a, b) => calculate(sum, self.number(&sides[0], &a)?, self.number(&sides[1], &b)?),
        }
    }

    fn number<'v>(&self, node: &Node, value: &'v Val<'_>) -> Result<Num<'v>, Reason> {
        value.number().ok_or_else(|| {
            let field = match node {
                Node::Field(slot) => self.row.names.get(*slot).map(|field| field.name.clone()),
                _ => None,
            };
            Reason::NotANumber { field, value: value.shown().trim_matches('"').to_owned() }
        })
    }

    fn member(&mut self, operand: &'a Node, name: &'a str) -> Evaluated<'a> {
        let value = if let Node::Local(place) = operand {
            // The variable stays where it is; only the member is copied.
            self.locals.get(*place).map_or(Ok(&Val::Null), |local| local.member(name))?.clone()
        } else {
            self.value(operand)?.into_member(name)?
        };
        self.pay_for(&value)?;
        Ok(value)
    }

    fn index(&mut self, sides: &'a [Node; 2]) -> Evaluated<'a> {
        let (container, index) = (self.value(&sides[0])?, self.value(&sides[1])?);
        match (container, &index) {
            (Val::Null, _) => Ok(Val::Null),
            (Val::List(mut items), index) => match index.number() {
                Some(Num::Int(i)) => Ok(usize::try_from(i)
                    .ok()
                    .filter(|i| *i < items.len())
                    .map_or(Val::Null, |i| items.swap_remove(i))),
                _ => Err(Reason::NoMembers { kind: "a list", name: index.shown() }),
            },
            (container, index) => match index.as_text() {
                Some(name) => container.into_member(name),
                None => Err(Reason::NoMembers { kind: container.kind(), name: index.shown() }),
            },
        }
    }

    fn map(&mut self, entries: &'a [(Node, Node)]) -> Evaluated<'a> {
        self.pay(entries.len())?;
        let mut made = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let key = self.value(key)?;
            let mut name = String::new();
            super::value::append(&key, &mut name).ok_or_else(|| Reason::Argument {
                function: "a key",
                value: key.shown(),
                kind: key.kind(),
            })?;
            made.push((name.into(), self.value(value)?));
        }
        Ok(Val::Map(made))
    }

    fn matches(&mut self, operand: &'a Node, pattern: &regex::Regex) -> Evaluated<'a> {
        let value = self.value(operand)?;
        if let Some(text) = value.as_text() {
            self.pay(text.len() / 64)?;
            return Ok(Val::Bool(pattern.is_match(text)));
        }
        if value.is_null() {
            return Ok(Val::Bool(false));
        }
        let mut text = String::new();
        super::value::append(&value, &mut text).ok_or_else(|| Reason::Argument {
            function: "matches",
            value: value.shown(),
            kind: value.kind(),
        })?;
        Ok(Val::Bool(pattern.is_match(&text)))
    }

    fn fold(&mut self, folded: &'a Macro) -> Evaluated<'a> {
        let items = match self.value(&folded.over)? {
            Val::Null => Vec::new(),
            Val::List(items) => items,
            Val::Map(entries) => entries.into_iter().map(|(name, _)| Val::Text(name)).collect(),
            other => return Err(not_a_list(&other)),
        };
        self.pay(items.len())?;
        let place = self.locals.len();
        self.locals.push(Val::Null);
        let result = self.fold_items(folded, items, place);
        // Also after an error, which `||` may absorb.
        self.locals.truncate(place);
        result
    }

    fn fold_items(
        &mut self,
        folded: &'a Macro,
        items: Vec<Val<'a>>,
        place: usize,
    ) -> Evaluated<'a> {
        let (mut count, mut made) = (0_usize, Vec::new());
        for item in items {
            self.pay(1)?;
            self.locals[place] = item;
            let holds = match &folded.test {
                Some(test) => self.truth(test)?,
                None => true,
            };
            match folded.kind {
                MacroKind::All if !holds => return Ok(Val::Bool(false)),
                MacroKind::Exists if holds => return Ok(Val::Bool(true)),
                MacroKind::ExistsOne => count += usize::from(holds),
                MacroKind::Collect if holds => made.push(match &folded.give {
                    Some(give) => self.value(give)?,
                    None => std::mem::replace(&mut self.locals[place], Val::Null),
                }),
                _ => {}
            }
        }
        Ok(match folded.kind {
            MacroKind::All => Val::Bool(true),
            MacroKind::Exists => Val::Bool(false),
            MacroKind::ExistsOne => Val::Bool(count == 1),
            MacroKind::Collect => Val::List(made),
        })
    }

    /// Pays for a list, object or made text that is copied or looked through; else it is free.
    fn pay_for(&mut self, value: &Val<'_>) -> Result<(), Reason> {
        match value {
            Val::List(_) | Val::Map(_) => self.pay(value.weight()),
            Val::Text(Cow::Owned(text)) => self.pay(text.len() / 16),
            _ => Ok(()),
        }
    }

    fn pay(&mut self, units: usize) -> Result<(), Reason> {
        self.fuel = self.fuel.checked_sub(units).ok_or(Reason::TooMuch)?;
        Ok(())
    }
}

fn not_a_list(value: &Val<'_>) -> Reason {
    Reason::NotAList { value: value.shown(), kind: value.kind() }
}

impl Order {
    fn holds(self, found: Ordering) -> bool {
        match self {
            Self::Less => found == Ordering::Less,
            Self::LessOrEqual => found != Ordering::Greater,
            Self::Greater => found == Ordering::Greater,
            Self::GreaterOrEqual => found != Ordering::Less,
        }
    }
}

/// Whole numbers stay whole, as in CEL: `7 / 2` is 3, `7 / 2.0` is 3.5. The result is never
/// infinite or NaN, which no sink could keep.
fn calculate<'a>(sum: Sum, a: Num<'_>, b: Num<'_>) -> Evaluated<'a> {
    if let (Num::Int(a), Num::Int(b)) = (a, b) {
        let result = match sum {
            Sum::Add => a.checked_add(b),
            Sum::Subtract => a.checked_sub(b),
            Sum::Multiply => a.checked_mul(b),
            Sum::Divide | Sum::Remainder if b == 0 => return Err(Reason::DivisionByZero),
            Sum::Divide => a.checked_div(b),
            Sum::Remainder => a.checked_rem(b),
        };
        return result.map(Val::Int).ok_or(Reason::Overflow);
    }
    let (a, b) = (a.to_f64(), b.to_f64());
    let result = match sum {
        Sum::Add => a + b,
        Sum::Subtract => a - b,
        Sum::Multiply => a * b,
        Sum::Divide | Sum::Remainder if b == 0.0 => return Err(Reason::DivisionByZero),
        Sum::Divide => a / b,
        Sum::Remainder => a % b,
    };
    if result.is_finite() { Ok(Val::Float(result)) } else { Err(Reason::Overflow) }
}
