//! The parser's syntax tree → [`Expr`], for the part of CEL that is worth it.

use std::sync::Arc;

use kube_cel::cel::IdedExpr;
use kube_cel::cel::common::ast::{CallExpr, ComprehensionExpr, Expr as Ast, LiteralValue, operators};

use super::eval::{Expr, Function, Loop, Op, pattern};

/// The number of the variable `oldSelf`; that of `self` is 0.
pub(super) const OLD_SELF: usize = 1;

/// `None` for whatever this file does not know.
pub(super) fn lower(ast: &IdedExpr) -> Option<Expr> {
    Scope { names: vec!["self".to_owned(), "oldSelf".to_owned()] }.expr(ast)
}

struct Scope {
    names: Vec<String>,
}

impl Scope {
    fn expr(&mut self, ast: &IdedExpr) -> Option<Expr> {
        Some(match &ast.expr {
            Ast::Literal(literal) => match literal {
                LiteralValue::Null => Expr::Null,
                LiteralValue::Boolean(bool) => Expr::Bool(*bool.inner()),
                LiteralValue::Int(int) => Expr::Int(*int.inner()),
                LiteralValue::Double(float) => Expr::Float(*float.inner()),
                LiteralValue::String(text) => Expr::Text(text.inner().into()),
                LiteralValue::Bytes(_) | LiteralValue::UInt(_) => return None,
            },
            Ast::Ident(name) => Expr::Variable(self.names.iter().rposition(|known| known == name)?),
            Ast::Select(select) => {
                let of = Box::new(self.expr(&select.operand)?);
                let name = unescape(&select.field).into();
                if select.test { Expr::Has { of, name } } else { Expr::Field { of, name } }
            }
            Ast::List(list) if list.optional_indices.is_empty() => {
                Expr::List(list.elements.iter().map(|item| self.expr(item)).collect::<Option<_>>()?)
            }
            Ast::Call(call) => self.call(call)?,
            Ast::Comprehension(comprehension) => self.comprehension(comprehension)?,
            _ => return None,
        })
    }

    fn boxed(&mut self, ast: &IdedExpr) -> Option<Box<Expr>> {
        self.expr(ast).map(Box::new)
    }

    fn call(&mut self, call: &CallExpr) -> Option<Expr> {
        let compare = match call.func_name.as_str() {
            operators::EQUALS => Some(Op::Equal),
            operators::NOT_EQUALS => Some(Op::NotEqual),
            operators::LESS => Some(Op::Less),
            operators::LESS_EQUALS => Some(Op::LessOrEqual),
            operators::GREATER => Some(Op::Greater),
            operators::GREATER_EQUALS => Some(Op::GreaterOrEqual),
            _ => None,
        };
        if let (Some(op), [a, b]) = (compare, call.args.as_slice()) {
            return Some(Expr::Compare { op, a: self.boxed(a)?, b: self.boxed(b)? });
        }
        Some(match (call.func_name.as_str(), &call.target, call.args.as_slice()) {
            (operators::LOGICAL_AND, None, [a, b]) => Expr::And(self.boxed(a)?, self.boxed(b)?),
            (operators::LOGICAL_OR, None, [a, b]) => Expr::Or(self.boxed(a)?, self.boxed(b)?),
            (operators::LOGICAL_NOT, None, [a]) => Expr::Not(self.boxed(a)?),
            (operators::ADD, None, [a, b]) => Expr::Add(self.boxed(a)?, self.boxed(b)?),
            (operators::CONDITIONAL, None, [test, then, other]) => {
                Expr::If { test: self.boxed(test)?, then: self.boxed(then)?, other: self.boxed(other)? }
            }
            (operators::IN, None, [item, list]) => {
                Expr::In { item: self.boxed(item)?, list: self.boxed(list)? }
            }
            (operators::INDEX, None, [of, at]) => Expr::Index { of: self.boxed(of)?, at: self.boxed(at)? },
            ("matches", Some(of), [text]) => match self.expr(text)? {
                Expr::Text(text) => Expr::Matches { of: self.boxed(of)?, pattern: Arc::new(pattern(&text)?) },
                _ => return None,
            },
            ("hasValue", Some(validated), []) => self.format(validated)?,
            (name, Some(of), args) => {
                let function = match (name, args.len()) {
                    ("size", 0) => Function::Size,
                    ("startsWith", 1) => Function::StartsWith,
                    ("endsWith", 1) => Function::EndsWith,
                    ("contains", 1) => Function::Contains,
                    ("split", 1) => Function::Split,
                    ("substring", 1 | 2) => Function::Substring,
                    _ => return None,
                };
                let of = self.boxed(of)?;
                Expr::Call {
                    function,
                    of,
                    args: args.iter().map(|arg| self.expr(arg)).collect::<Option<_>>()?,
                }
            }
            (name, None, [of]) => {
                let function = match name {
                    "size" => Function::Size,
                    "duration" => Function::Duration,
                    "isIP" => Function::IsIp,
                    _ => return None,
                };
                Expr::Call { function, of: self.boxed(of)?, args: Vec::new() }
            }
            _ => return None,
        })
    }

    /// `format.NAME().validate(x)` under `.hasValue()`.
    fn format(&mut self, validated: &IdedExpr) -> Option<Expr> {
        let Ast::Call(validate) = &validated.expr else { return None };
        let ("validate", Some(format), [of]) =
            (validate.func_name.as_str(), &validate.target, validate.args.as_slice())
        else {
            return None;
        };
        let Ast::Call(format) = &format.expr else { return None };
        let Ast::Ident(library) = &format.target.as_ref()?.expr else { return None };
        let function = match (library.as_str(), format.func_name.as_str()) {
            ("format", "dns1123Subdomain") => Function::NotDns1123Subdomain,
            ("format", "dns1123Label") => Function::NotDns1123Label,
            ("format", "qualifiedName") => Function::NotQualifiedName,
            _ => return None,
        };
        Some(Expr::Call { function, of: self.boxed(of)?, args: Vec::new() })
    }

    /// Recognises the macros by what the parser expands them to.
    fn comprehension(&mut self, ast: &ComprehensionExpr) -> Option<Expr> {
        if ast.iter_var2.is_some() {
            return None;
        }
        let over = self.boxed(&ast.iter_range)?;
        let Ast::Call(step) = &ast.loop_step.expr else { return None };
        let (kind, body) = match (step.func_name.as_str(), step.args.as_slice()) {
            (operators::LOGICAL_AND, [accumulator, body]) if is(accumulator, &ast.accu_var) => {
                (Loop::All, body)
            }
            (operators::LOGICAL_OR, [accumulator, body]) if is(accumulator, &ast.accu_var) => {
                (Loop::Exists, body)
            }
            (operators::CONDITIONAL, [test, then, other]) if is(other, &ast.accu_var) => {
                match appended(then, &ast.accu_var)? {
                    Ast::Literal(LiteralValue::Int(one)) if *one.inner() == 1 => (Loop::ExistsOne, test),
                    Ast::List(kept) if matches!(kept.elements.as_slice(), [item] if is(item, &ast.iter_var)) => {
                        (Loop::Filter, test)
                    }
                    _ => return None,
                }
            }
            (operators::ADD, _) => match appended(&ast.loop_step, &ast.accu_var)? {
                Ast::List(mapped) => match mapped.elements.as_slice() {
                    [item] => (Loop::Map, item),
                    _ => return None,
                },
                _ => return None,
            },
            _ => return None,
        };
        self.names.push(ast.iter_var.clone());
        let body = self.boxed(body);
        self.names.pop();
        Some(Expr::Loop { kind, over, body: body? })
    }
}

fn is(ast: &IdedExpr, variable: &str) -> bool {
    matches!(&ast.expr, Ast::Ident(name) if name == variable)
}

/// What is added to the accumulator.
fn appended<'a>(ast: &'a IdedExpr, accumulator: &str) -> Option<&'a Ast> {
    let Ast::Call(call) = &ast.expr else { return None };
    match (call.func_name.as_str(), call.args.as_slice()) {
        (operators::ADD, [a, b]) if is(a, accumulator) => Some(&b.expr),
        _ => None,
    }
}

/// The field that an identifier stands for: CEL's keywords and some characters are written escaped.
fn unescape(name: &str) -> String {
    if let Some(keyword) = name.strip_prefix("__").and_then(|name| name.strip_suffix("__"))
        && !keyword.is_empty()
        && keyword.bytes().all(|b| b.is_ascii_lowercase())
        && !matches!(keyword, "dot" | "dash" | "slash" | "underscores")
    {
        return keyword.to_owned();
    }
    let name = name.replace("__dot__", ".").replace("__dash__", "-").replace("__slash__", "/");
    name.replace("__underscores__", "__").replace("__", "_")
}
