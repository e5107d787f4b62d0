//! Evaluates lowered rules.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::super::names;
use super::value::{Val, parse_duration};

/// A lowered expression. Variables are numbered: `self`, `oldSelf`, then those of comprehensions, outermost first.
#[derive(Debug)]
pub(super) enum Expr {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Box<str>),
    List(Vec<Expr>),
    Variable(usize),
    Field { of: Box<Expr>, name: Box<str> },
    Has { of: Box<Expr>, name: Box<str> },
    Index { of: Box<Expr>, at: Box<Expr> },
    Not(Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    If { test: Box<Expr>, then: Box<Expr>, other: Box<Expr> },
    Compare { op: Op, a: Box<Expr>, b: Box<Expr> },
    Add(Box<Expr>, Box<Expr>),
    In { item: Box<Expr>, list: Box<Expr> },
    Loop { kind: Loop, over: Box<Expr>, body: Box<Expr> },
    Call { function: Function, of: Box<Expr>, args: Vec<Expr> },
    Matches { of: Box<Expr>, pattern: Arc<Regex> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The comprehension macros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loop {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    StartsWith,
    EndsWith,
    Contains,
    Split,
    Substring,
    Duration,
    IsIp,
    /// `format.dns1123Subdomain().validate(x).hasValue()`: whether `x` is *not* one.
    NotDns1123Subdomain,
    /// The same of `format.dns1123Label()`.
    NotDns1123Label,
    /// The same of `format.qualifiedName()`.
    NotQualifiedName,
}

pub(super) type Error = Cow<'static, str>;
type Result<T> = std::result::Result<T, Error>;

/// What one rule may cost on one value, in evaluated expressions. The API server bounds rules as well.
const BUDGET: u32 = 5_000_000;

/// As the API server limits it, in spirit: a pattern from a value must not take the memory of the process.
pub(super) const PATTERN_BYTES: usize = 1 << 20;

struct Env<'a> {
    variables: Vec<Val<'a>>,
    budget: u32,
}

/// Whether the rule holds.
pub(super) fn run(expr: &Expr, value: &Value, old: Option<&Value>) -> Result<bool> {
    match Env::new(value, old).eval(expr)? {
        Val::Bool(holds) => Ok(holds),
        _ => Err("the rule did not yield a boolean".into()),
    }
}

/// The text that a message expression yields.
pub(super) fn text(expr: &Expr, value: &Value, old: Option<&Value>) -> Option<String> {
    Env::new(value, old)
        .eval(expr)
        .ok()?
        .text()
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
}

impl<'a> Env<'a> {
    fn new(value: &'a Value, old: Option<&'a Value>) -> Self {
        Self { variables: vec![Val::from(value), old.map_or(Val::Null, Val::from)], budget: BUDGET }
    }

    fn eval(&mut self, expr: &'a Expr) -> Result<Val<'a>> {
        self.budget = self.budget.checked_sub(1).ok_or("the rule is too expensive for this value")?;
        Ok(match expr {
            Expr::Null => Val::Null,
            Expr::Bool(bool) => Val::Bool(*bool),
            Expr::Int(int) => Val::Int(*int),
            Expr::Float(float) => Val::Float(*float),
            Expr::Text(text) => Val::Text(Cow::Borrowed(text)),
            Expr::List(items) => {
                Val::Made(Rc::new(items.iter().map(|item| self.eval(item)).collect::<Result<_>>()?))
            }
            Expr::Variable(slot) => self.variables.get(*slot).cloned().ok_or("undeclared reference")?,
            Expr::Field { of, name } => match self.eval(of)? {
                Val::Map(map) => {
                    map.get(&**name).map(Val::from).ok_or_else(|| format!("no such key: {name}"))?
                }
                _ => return Err(format!("no such key: {name}").into()),
            },
            Expr::Has { of, name } => match self.eval(of)? {
                Val::Map(map) => Val::Bool(map.contains_key(&**name)),
                _ => return Err("no such overload".into()),
            },
            Expr::Index { of, at } => self.index(of, at)?,
            Expr::Not(expr) => Val::Bool(!self.bool(expr)?),
            Expr::And(a, b) => Val::Bool(self.logic(a, b, false)?),
            Expr::Or(a, b) => Val::Bool(self.logic(a, b, true)?),
            Expr::If { test, then, other } => {
                let taken = if self.bool(test)? { then } else { other };
                self.eval(taken)?
            }
            Expr::Compare { op, a, b } => Val::Bool(self.compare(*op, a, b)?),
            Expr::Add(a, b) => self.add(a, b)?,
            Expr::In { item, list } => Val::Bool(self.is_in(item, list)?),
            Expr::Loop { kind, over, body } => self.iterate(*kind, over, body)?,
            Expr::Call { function, of, args } => self.call(*function, of, args)?,
            Expr::Matches { of, pattern } => match self.eval(of)? {
                Val::Text(text) => Val::Bool(pattern.is_match(&text)),
                _ => return Err("no such overload".into()),
            },
        })
    }

    fn bool(&mut self, expr: &'a Expr) -> Result<bool> {
        match self.eval(expr)? {
            Val::Bool(bool) => Ok(bool),
            _ => Err("no such overload".into()),
        }
    }

    /// `&&` and `||`: either side alone decides with `decisive`, whatever became of the other.
    fn logic(&mut self, a: &'a Expr, b: &'a Expr, decisive: bool) -> Result<bool> {
        match self.bool(a) {
            Ok(a) if a == decisive => Ok(decisive),
            Ok(_) => self.bool(b),
            Err(error) => match self.bool(b) {
                Ok(b) if b == decisive => Ok(decisive),
                _ => Err(error),
            },
        }
    }

    fn index(&mut self, of: &'a Expr, at: &'a Expr) -> Result<Val<'a>> {
        let of = self.eval(of)?;
        match (&of, self.eval(at)?) {
            (Val::Map(map), Val::Text(key)) => {
                map.get(&*key).map(Val::from).ok_or_else(|| format!("no such key: {key}").into())
            }
            (Val::List(_) | Val::Made(_), Val::Int(at)) => usize::try_from(at)
                .ok()
                .and_then(|at| of.item(at))
                .ok_or_else(|| format!("index out of bounds: {at}").into()),
            _ => Err("no such overload".into()),
        }
    }

    fn compare(&mut self, op: Op, a: &'a Expr, b: &'a Expr) -> Result<bool> {
        let (a, b) = (self.eval(a)?, self.eval(b)?);
        let order = || a.compare(&b).ok_or("no such overload");
        Ok(match op {
            Op::Equal => a.equals(&b),
            Op::NotEqual => !a.equals(&b),
            Op::Less => order()? == Ordering::Less,
            Op::LessOrEqual => order()? != Ordering::Greater,
            Op::Greater => order()? == Ordering::Greater,
            Op::GreaterOrEqual => order()? != Ordering::Less,
        })
    }

    fn add(&mut self, a: &'a Expr, b: &'a Expr) -> Result<Val<'a>> {
        match (self.eval(a)?, self.eval(b)?) {
            (Val::Int(a), Val::Int(b)) => Ok(Val::Int(a.checked_add(b).ok_or("integer overflow")?)),
            (Val::Float(a), Val::Float(b)) => Ok(Val::Float(a + b)),
            (Val::Duration(a), Val::Duration(b)) => Ok(Val::Duration(a + b)),
            (Val::Text(a), Val::Text(b)) => Ok(Val::Text(Cow::Owned(a.into_owned() + &b))),
            _ => Err("no such overload".into()),
        }
    }

    fn is_in(&mut self, item: &'a Expr, list: &'a Expr) -> Result<bool> {
        let item = self.eval(item)?;
        // Lists of literals are the usual case, and need not be built.
        if let Expr::List(items) = list {
            for other in items {
                if self.eval(other)?.equals(&item) {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        match (self.eval(list)?, item) {
            (Val::Map(map), Val::Text(key)) => Ok(map.contains_key(&*key)),
            (Val::List(items), item) => Ok(items.iter().any(|other| Val::from(other).equals(&item))),
            (Val::Made(items), item) => Ok(items.iter().any(|other| other.equals(&item))),
            _ => Err("no such overload".into()),
        }
    }

    fn iterate(&mut self, kind: Loop, over: &'a Expr, body: &'a Expr) -> Result<Val<'a>> {
        let over = self.eval(over)?;
        let length = over.length().ok_or("no such overload")?;
        let mut kept = Vec::new();
        let mut count = 0;
        let mut failed = None;
        for index in 0..length {
            let Some(item) = over.item(index) else { break };
            self.variables.push(item);
            let outcome = self.eval(body);
            let item = self.variables.pop();
            match (kind, outcome) {
                (Loop::All, Ok(Val::Bool(false))) => return Ok(Val::Bool(false)),
                (Loop::Exists, Ok(Val::Bool(true))) => return Ok(Val::Bool(true)),
                (Loop::ExistsOne, Ok(Val::Bool(true))) => count += 1,
                (Loop::Filter, Ok(Val::Bool(true))) => kept.extend(item),
                (Loop::Map, Ok(value)) => kept.push(value),
                (_, Ok(Val::Bool(_))) => {}
                (_, Ok(_)) => return Err("no such overload".into()),
                // Another item may still decide; then the error does not count.
                (Loop::All | Loop::Exists, Err(error)) => failed = failed.or(Some(error)),
                (_, Err(error)) => return Err(error),
            }
        }
        match (kind, failed) {
            (_, Some(error)) => Err(error),
            (Loop::All, None) => Ok(Val::Bool(true)),
            (Loop::Exists, None) => Ok(Val::Bool(false)),
            (Loop::ExistsOne, None) => Ok(Val::Bool(count == 1)),
            (Loop::Filter | Loop::Map, None) => Ok(Val::Made(Rc::new(kept))),
        }
    }

    fn call(&mut self, function: Function, of: &'a Expr, args: &'a [Expr]) -> Result<Val<'a>> {
        let of = self.eval(of)?;
        if function == Function::Size {
            let size = of.text().map(|text| text.chars().count()).or_else(|| of.length());
            return Ok(Val::Int(size.and_then(|size| i64::try_from(size).ok()).ok_or("no such overload")?));
        }
        let Val::Text(text) = of else { return Err("no such overload".into()) };
        let mut values = Vec::with_capacity(args.len());
        for arg in args {
            values.push(self.eval(arg)?);
        }
        let bool = Val::Bool;
        Ok(match (function, values.as_slice()) {
            (Function::StartsWith, [Val::Text(arg)]) => bool(text.starts_with(&**arg)),
            (Function::EndsWith, [Val::Text(arg)]) => bool(text.ends_with(&**arg)),
            (Function::Contains, [Val::Text(arg)]) => bool(text.contains(&**arg)),
            (Function::Split, [Val::Text(arg)]) => Val::Made(Rc::new(
                text.split(&**arg).map(|part| Val::Text(Cow::Owned(part.to_owned()))).collect(),
            )),
            (Function::Substring, [Val::Int(start)]) => substring(&text, *start, None)?,
            (Function::Substring, [Val::Int(start), Val::Int(end)]) => substring(&text, *start, Some(*end))?,
            (Function::Duration, []) => {
                Val::Duration(parse_duration(&text).ok_or_else(|| format!("invalid duration: {text:?}"))?)
            }
            (Function::IsIp, []) => bool(text.parse::<IpAddr>().is_ok()),
            (Function::NotDns1123Subdomain, []) => bool(!names::is_dns1123_subdomain(&text)),
            (Function::NotDns1123Label, []) => bool(!names::is_dns1123_label(&text)),
            (Function::NotQualifiedName, []) => bool(!names::is_qualified_name(&text)),
            _ => return Err("no such overload".into()),
        })
    }
}

fn substring<'a>(text: &str, start: i64, end: Option<i64>) -> Result<Val<'a>> {
    let length = text.chars().count();
    let bound = |at: i64| usize::try_from(at).ok().filter(|at| *at <= length).ok_or("index out of range");
    let (start, end) = (bound(start)?, end.map_or(Ok(length), bound)?);
    if start > end {
        return Err("invalid substring range".into());
    }
    Ok(Val::Text(Cow::Owned(text.chars().skip(start).take(end - start).collect())))
}

/// A pattern as rules have them: RE2's syntax, whose subset `regex` shares.
pub(super) fn pattern(text: &str) -> Option<Regex> {
    RegexBuilder::new(text).size_limit(PATTERN_BYTES).build().ok()
}

impl Expr {
    pub(super) fn uses_old_self(&self) -> bool {
        match self {
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::Float(_) | Self::Text(_) => false,
            Self::Variable(slot) => *slot == super::lower::OLD_SELF,
            Self::List(items) => items.iter().any(Self::uses_old_self),
            Self::Field { of, .. } | Self::Has { of, .. } | Self::Not(of) | Self::Matches { of, .. } => {
                of.uses_old_self()
            }
            Self::Index { of: a, at: b }
            | Self::And(a, b)
            | Self::Or(a, b)
            | Self::Compare { a, b, .. }
            | Self::Add(a, b)
            | Self::In { item: a, list: b }
            | Self::Loop { over: a, body: b, .. } => a.uses_old_self() || b.uses_old_self(),
            Self::If { test, then, other } => [test, then, other].iter().any(|expr| expr.uses_old_self()),
            Self::Call { of, args, .. } => of.uses_old_self() || args.iter().any(Self::uses_old_self),
        }
    }
}
