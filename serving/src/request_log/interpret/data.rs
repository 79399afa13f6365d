//! The input of an interpreted template: owned, since the interpreter's values must be, and built
//! only as far as the template names it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gotmpl::parse::SmolStr;
use gotmpl::{Result, Value};
use http::{HeaderMap, HeaderName, Version};

use super::function::{failure, text_of};
use crate::request_log::LogInput;
use crate::request_log::field::{FIELDS, Field, FieldValue};
use crate::request_log::url::Url;

/// A pointer that is nil, as opposed to no value. No unsigned number occurs in any input.
pub(super) const NIL_POINTER: Value = Value::Uint(0);

/// What one line is made of.
pub(super) struct Snapshot {
    /// In the order of [`FIELDS`].
    fields: Vec<Option<Value>>,
    headers: Value,
    uri: String,
    chunked: bool,
    tls: bool,
}

/// The structs of the input.
#[derive(Clone, Copy)]
enum Struct {
    Root,
    Request,
    Response,
    Revision,
    Url,
    Tls,
}

/// Looks up a member as Go does: methods first, then fields or keys.
pub(super) fn member_of(value: &Value, name: &str, arguments: &[Value]) -> Result<Value> {
    match value {
        Value::Function(structure) => {
            let mut call = vec![Value::String(name.into())];
            call.extend_from_slice(arguments);
            structure(&call)
        }
        Value::Map(map) => header_method(map, name, arguments).unwrap_or_else(|| {
            no_arguments(name, arguments)?;
            Ok(map.get(name).cloned().unwrap_or(Value::Nil))
        }),
        _ => Err(failure(format!("can't evaluate field {name}"))),
    }
}

pub(super) fn empty_list() -> Value {
    Value::List(Arc::from([]))
}

/// The methods of `http.Header` that only read; `None` if `name` is not one of them.
fn header_method(
    map: &BTreeMap<Arc<str>, Value>,
    name: &str,
    arguments: &[Value],
) -> Option<Result<Value>> {
    let key = || match arguments {
        [Value::String(key)] => Ok(canonical(key)),
        _ => Err(failure(format!("{name} takes the name of a header"))),
    };
    let values = |key: String| map.get(key.as_str()).cloned().unwrap_or_else(empty_list);
    match name {
        "Get" => Some(key().map(|key| match values(key) {
            Value::List(values) => values.first().cloned().unwrap_or(text("")),
            _ => text(""),
        })),
        "Values" => Some(key().map(values)),
        "Clone" => Some(no_arguments(name, arguments).map(|()| Value::Map(Arc::new(map.clone())))),
        _ => None,
    }
}

fn no_arguments(name: &str, arguments: &[Value]) -> Result<()> {
    if arguments.is_empty() {
        Ok(())
    } else {
        Err(failure(format!("{name} is not a method but has arguments")))
    }
}

fn text(text: impl AsRef<str>) -> Value {
    Value::String(text.as_ref().into())
}

/// Go's canonical form of a header name; what is no name stays as it is.
fn canonical(name: &str) -> String {
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(_) => {
            let mut first = true;
            let each = |letter: char| {
                if std::mem::replace(&mut first, letter == '-') {
                    letter.to_ascii_uppercase()
                } else {
                    letter.to_ascii_lowercase()
                }
            };
            name.chars().map(each).collect()
        }
        Err(_) => name.to_owned(),
    }
}

// === impl Snapshot ===

impl Snapshot {
    pub(super) fn new(input: &LogInput<'_>, named: &BTreeSet<SmolStr>) -> Self {
        let wanted = |owner: &str, name: &str| owner != "Request" || named.contains(name);
        let fields = FIELDS
            .iter()
            .map(|(owner, name, field)| wanted(owner, name).then(|| own(field.value(input))))
            .collect();
        Self {
            fields,
            headers: if named.contains("Header") {
                header_map(input.headers)
            } else {
                Value::Nil
            },
            uri: input.uri.to_owned(),
            chunked: input.content_length < 0 && input.version == Version::HTTP_11,
            tls: input.tls,
        }
    }

    /// The dot of the template.
    pub(super) fn root(self: Arc<Self>) -> Value {
        self.structure(Struct::Root)
    }

    fn structure(self: Arc<Self>, which: Struct) -> Value {
        Value::Function(Arc::new(move |call| match call {
            [Value::String(name), arguments @ ..] => self.member(which, name, arguments),
            _ => self.print(which),
        }))
    }

    fn member(self: &Arc<Self>, which: Struct, name: &str, arguments: &[Value]) -> Result<Value> {
        if let (Struct::Request, "ProtoAtLeast") = (which, name) {
            return self.proto_at_least(arguments);
        }
        no_arguments(name, arguments)?;
        let unknown = || failure(format!("can't evaluate field {name}"));
        let structure = |which| Ok(Arc::clone(self).structure(which));
        match which {
            Struct::Root => match name {
                "Request" => structure(Struct::Request),
                "Response" => structure(Struct::Response),
                "Revision" => structure(Struct::Revision),
                _ => self.field("", name).ok_or_else(unknown),
            },
            Struct::Request => match name {
                "URL" => structure(Struct::Url),
                "TLS" if self.tls => structure(Struct::Tls),
                "TLS" => Ok(NIL_POINTER),
                "Header" => Ok(self.headers.clone()),
                // Nothing parses forms, and trailers come after the line's values are taken.
                "Trailer" | "Form" | "PostForm" => Ok(Value::Map(Arc::default())),
                "TransferEncoding" if self.chunked => Ok(Value::List(Arc::from([text("chunked")]))),
                "TransferEncoding" => Ok(empty_list()),
                _ => self.field("Request", name).ok_or_else(unknown),
            },
            Struct::Response => self.field("Response", name).ok_or_else(unknown),
            Struct::Revision => self.field("Revision", name).ok_or_else(unknown),
            Struct::Url => self.url_member(name).ok_or_else(unknown),
            Struct::Tls => Err(unknown()),
        }
    }

    fn field(&self, owner: &str, name: &str) -> Option<Value> {
        let at = FIELDS
            .iter()
            .position(|field| field.0 == owner && field.1 == name)?;
        self.fields[at].clone()
    }

    fn url_member(&self, name: &str) -> Option<Value> {
        let url = Url::of(&self.uri);
        Some(match name {
            "Path" => text(url.decoded_path()),
            "RawPath" => text(url.raw_path()),
            "RawQuery" => text(url.query),
            "Scheme" => text(url.scheme.to_ascii_lowercase()),
            "Host" => text(url.host),
            "Opaque" | "Fragment" | "RawFragment" => text(""),
            "User" => NIL_POINTER,
            "ForceQuery" => Value::Bool(url.force_query),
            "OmitHost" => Value::Bool(false),
            "EscapedPath" => text(url.escaped_path()),
            "Hostname" => text(url.hostname()),
            "Port" => text(url.port()),
            "IsAbs" => Value::Bool(!url.scheme.is_empty()),
            "RequestURI" => text(Url { scheme: "", ..url }.to_string()),
            "String" | "Redacted" => text(url.to_string()),
            _ => return None,
        })
    }

    fn proto_at_least(&self, arguments: &[Value]) -> Result<Value> {
        let number = |field: Field| {
            let at = FIELDS.iter().position(|entry| entry.2 == field);
            at.and_then(|at| self.fields[at].as_ref()?.as_int())
        };
        match (
            arguments,
            number(Field::ProtoMajor),
            number(Field::ProtoMinor),
        ) {
            ([Value::Int(major), Value::Int(minor)], Some(own_major), Some(own_minor)) => {
                Ok(Value::Bool((own_major, own_minor) >= (*major, *minor)))
            }
            _ => Err(failure("ProtoAtLeast takes two numbers")),
        }
    }

    /// What Go prints for a whole struct. The request and the input are full of addresses there,
    /// which is of no use to anyone, so they have no such text here.
    fn print(&self, which: Struct) -> Result<Value> {
        match which {
            Struct::Response => self.print_fields("Response"),
            Struct::Revision => self.print_fields("Revision"),
            Struct::Url => Ok(text(Url::of(&self.uri).to_string())),
            Struct::Tls => Ok(text("{}")),
            Struct::Root | Struct::Request => Err(failure("the request cannot be printed")),
        }
    }

    fn print_fields(&self, owner: &str) -> Result<Value> {
        let values: Vec<_> = FIELDS
            .iter()
            .zip(&self.fields)
            .filter(|(field, _)| field.0 == owner)
            .filter_map(|(_, value)| value.as_ref().map(text_of))
            .collect::<Result<_>>()?;
        Ok(text(format!("{{{}}}", values.join(" "))))
    }
}

fn own(value: FieldValue<'_>) -> Value {
    match value {
        FieldValue::Bytes(bytes) => text(String::from_utf8_lossy(bytes)),
        FieldValue::Text(owned) => text(owned),
        FieldValue::Int(number) => Value::Int(number),
        FieldValue::Float(number) => Value::Float(number),
    }
}

/// By canonical name; without the Host, which Go keeps apart.
fn header_map(headers: &HeaderMap) -> Value {
    let lists = headers
        .keys()
        .filter(|name| **name != http::header::HOST)
        .map(|name| {
            let values = headers.get_all(name).iter();
            let values = values.map(|value| text(String::from_utf8_lossy(value.as_bytes())));
            (
                Arc::from(canonical(name.as_str())),
                Value::List(values.collect()),
            )
        });
    Value::Map(Arc::new(lists.collect()))
}
