//! The functions of templates where `gotmpl` and Go differ, and those that rewriting puts in.

use gotmpl::{Result, TemplateError, Value};

use super::data::{empty_list, member_of};
use crate::go::format_float;
use crate::request_log::escape::write_js;

pub(super) fn failure(message: impl ToString) -> TemplateError {
    TemplateError::Exec(message.to_string())
}

/// `{{receiver.A.B arguments}}`: only the last name may be a method with arguments.
pub(super) fn member(args: &[Value]) -> Result<Value> {
    let [receiver, Value::String(path), arguments @ ..] = args else {
        return Err(failure("expected a receiver and a path"));
    };
    let mut value = receiver.clone();
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        let arguments = if names.peek().is_none() {
            arguments
        } else {
            &[]
        };
        value = member_of(&value, name, arguments)?;
    }
    Ok(value)
}

/// What an action writes. No value at all stays none, which is written as `<no value>`.
pub(super) fn show(args: &[Value]) -> Result<Value> {
    match args {
        [Value::Nil] => Ok(Value::Nil),
        [value] => text_of(value).map(|text| Value::String(text.into())),
        _ => Err(failure("expected one value")),
    }
}

/// `verb format n value`: the argument number `n` of `printf`. Structs, nil pointers and floats
/// for `%v` are printed here, the way Go does; anything else is left to `printf`.
pub(super) fn verb(args: &[Value]) -> Result<Value> {
    let [format, Value::Int(at), value] = args else {
        return Err(failure("expected a format, a number and a value"));
    };
    let is_v = || match format {
        Value::String(format) => verb_at(format, *at) == Some('v'),
        _ => false,
    };
    match value {
        Value::Function(_) => text_of(value).map(|text| Value::String(text.into())),
        Value::Float(number) if is_v() => Ok(Value::String(format_float(*number).into())),
        Value::Uint(_) => Ok(Value::Nil),
        other => Ok(other.clone()),
    }
}

/// The verb for an argument, if the format takes its arguments one by one.
fn verb_at(format: &str, at: i64) -> Option<char> {
    let mut letters = format.chars();
    let mut seen = 0;
    while let Some(letter) = letters.next() {
        if letter != '%' {
            continue;
        }
        let verb = letters.find(|letter| !"+-# 0123456789.".contains(*letter))?;
        match verb {
            '%' => {}
            '*' | '[' => return None,
            verb if seen == at => return Some(verb),
            _ => seen += 1,
        }
    }
    None
}

/// A missing key has the zero value, which for all our maps is a list.
pub(super) fn index(args: &[Value]) -> Result<Value> {
    let Some((value, indices)) = args.split_first() else {
        return Err(failure("wrong number of args for index"));
    };
    let mut value = value.clone();
    for at in indices {
        value = match (&value, at) {
            (Value::Map(map), Value::String(key)) => {
                map.get(key).cloned().unwrap_or_else(empty_list)
            }
            _ => value.index(at)?,
        };
    }
    Ok(value)
}

/// Nothing in the input is a function; structs only look like one here.
pub(super) fn call(_: &[Value]) -> Result<Value> {
    Err(failure("call of a value that is no function"))
}

pub(super) fn print(args: &[Value]) -> Result<Value> {
    Ok(Value::String(sprint(args)?.into()))
}

pub(super) fn println(args: &[Value]) -> Result<Value> {
    let texts: Vec<_> = args.iter().map(text_of).collect::<Result<_>>()?;
    Ok(Value::String((texts.join(" ") + "\n").into()))
}

pub(super) fn html(args: &[Value]) -> Result<Value> {
    escape(args, gotmpl::html_escape)
}

pub(super) fn urlquery(args: &[Value]) -> Result<Value> {
    escape(args, gotmpl::url_encode)
}

/// Escapes what cannot be printed beyond ASCII too.
pub(super) fn js(args: &[Value]) -> Result<Value> {
    escape(args, |text| {
        let mut out = Vec::with_capacity(text.len() + 16);
        write_js(text.as_bytes(), &mut out);
        String::from_utf8_lossy(&out).into_owned()
    })
}

/// Go's `evalArgs`: all arguments as `print` has them, where no value is `<no value>`.
fn escape(args: &[Value], escaped: fn(&str) -> String) -> Result<Value> {
    let named: Vec<_> = args
        .iter()
        .map(|value| match value {
            Value::Nil => Value::String("<no value>".into()),
            other => other.clone(),
        })
        .collect();
    Ok(Value::String(escaped(&sprint(&named)?).into()))
}

/// `fmt.Sprint`: a space between two arguments of which neither is text.
fn sprint(args: &[Value]) -> Result<String> {
    let mut out = String::new();
    let mut after_other = false;
    for value in args {
        let other = !matches!(value, Value::String(_));
        if other && after_other {
            out.push(' ');
        }
        out.push_str(&text_of(value)?);
        after_other = other;
    }
    Ok(out)
}

/// How Go prints a value: floats with its threshold for exponents, structs by their own text.
pub(super) fn text_of(value: &Value) -> Result<String> {
    match value {
        Value::Float(number) => Ok(format_float(*number)),
        // The nil pointer of `data`.
        Value::Uint(_) => Ok("<nil>".to_owned()),
        Value::Function(structure) => structure(&[]).map(|text| text.to_string()),
        other => Ok(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_counted_as_printf_does() {
        let format = "%d%% %5.2f|%-3v|%s";
        assert_eq!(verb_at(format, 0), Some('d'));
        assert_eq!(verb_at(format, 1), Some('f'));
        assert_eq!(verb_at(format, 2), Some('v'));
        assert_eq!(verb_at(format, 4), None);
        assert_eq!(verb_at("%[1]v", 0), None);
        assert_eq!(verb_at("%*v", 1), None);
        assert_eq!(verb_at("%", 0), None);
    }
}
