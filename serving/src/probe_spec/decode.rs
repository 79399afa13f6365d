//! Reads probes as leniently as Go's decoder: keys match without regard to case, unknown ones are
//! skipped, `null` leaves a value unset. Every problem of the text is reported, not only the first.

use super::json::{Json, matches};
use super::{ExecAction, GrpcAction, HttpGetAction, HttpHeader, Port, Probe, TcpSocketAction};

/// Why the text is not a probe, or not a list of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid readiness probe: {}", problems.join("; "))]
pub struct InvalidProbe {
    problems: Vec<String>,
}

/// `DecodeProbes`: the probes in a value of `SERVING_READINESS_PROBE`, one unless `multi`, which
/// asks for a list. A probe that is `null` stays `None`; a list that is `null` is empty.
///
/// An empty text is an error here; whether the variable is set at all is the caller's question.
pub fn decode(text: &str, multi: bool) -> Result<Vec<Option<Probe>>, InvalidProbe> {
    let json: Json = serde_json::from_str(text).map_err(|error| InvalidProbe {
        problems: vec![error.to_string()],
    })?;
    let mut reader = Reader::default();
    let mut probes: Vec<Option<Probe>> = Vec::new();
    if multi {
        reader.list(&json, &mut probes, Reader::object);
    } else {
        let mut probe = None;
        reader.object(&json, &mut probe);
        probes.push(probe);
    }
    if reader.problems.is_empty() {
        Ok(probes)
    } else {
        Err(InvalidProbe {
            problems: reader.problems,
        })
    }
}

/// Where in the text we are, and what was wrong so far.
#[derive(Default)]
struct Reader {
    path: Vec<String>,
    problems: Vec<String>,
}

/// A struct that takes the members of an object one by one.
trait Members {
    /// The field's names and, for the one that `key` matches, how its value is read.
    fn member(&mut self, key: &str, value: &Json, reader: &mut Reader);
}

// === impl InvalidProbe ===

impl InvalidProbe {
    /// Each problem with its place in the text.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

// === impl Reader ===

impl Reader {
    fn wanted(&mut self, wanted: &str, found: &Json) {
        let place = if self.path.is_empty() {
            String::new()
        } else {
            format!("{}: ", self.path.join("."))
        };
        self.problems
            .push(format!("{place}expected {wanted}, found {}", found.kind()));
    }

    /// A field that an object may fill: `null` empties it, a second object adds to the first.
    fn object<T: Members + Default>(&mut self, value: &Json, field: &mut Option<T>) {
        if *value == Json::Null {
            *field = None;
        } else {
            self.members(value, field.get_or_insert_default());
        }
    }

    fn members<T: Members>(&mut self, value: &Json, into: &mut T) {
        match value {
            Json::Null => {}
            Json::Object(members) => {
                for (key, value) in members {
                    self.path.push(key.clone());
                    into.member(key, value, self);
                    self.path.pop();
                }
            }
            other => self.wanted("an object", other),
        }
    }

    fn list<T: Default>(
        &mut self,
        value: &Json,
        into: &mut Vec<T>,
        each: fn(&mut Self, &Json, &mut T),
    ) {
        match value {
            Json::Null => into.clear(),
            Json::List(values) => {
                into.clear();
                for (index, value) in values.iter().enumerate() {
                    let mut item = T::default();
                    self.path.push(format!("[{index}]"));
                    each(self, value, &mut item);
                    self.path.pop();
                    into.push(item);
                }
            }
            other => self.wanted("an array", other),
        }
    }

    fn text(&mut self, value: &Json, into: &mut String) {
        match value {
            Json::Null => {}
            Json::Text(text) => into.clone_from(text),
            other => self.wanted("a string", other),
        }
    }

    fn number(&mut self, value: &Json, into: &mut i32) {
        match value {
            Json::Null => {}
            Json::Integer(number) => match i32::try_from(*number) {
                Ok(number) => *into = number,
                Err(_) => self.wanted("an integer of 32 bits", value),
            },
            // The integer -0 arrives as a float.
            Json::Fraction(zero) if *zero == 0.0 && zero.is_sign_negative() => *into = 0,
            other => self.wanted("an integer of 32 bits", other),
        }
    }

    fn long(&mut self, value: &Json, into: &mut Option<i64>) {
        match value {
            Json::Null => *into = None,
            Json::Integer(number) if i64::try_from(*number).is_ok() => {
                *into = i64::try_from(*number).ok();
            }
            other => self.wanted("an integer of 64 bits", other),
        }
    }

    fn port(&mut self, value: &Json, into: &mut Port) {
        if let Json::Text(text) = value {
            *into = Port::Name(text.clone());
        } else {
            let mut number = into.number();
            self.number(value, &mut number);
            *into = Port::Number(number);
        }
    }

    fn optional_text(&mut self, value: &Json, into: &mut Option<String>) {
        if *value == Json::Null {
            *into = None;
        } else {
            self.text(value, into.get_or_insert_default());
        }
    }
}

/// Reads the member into the field whose name the key matches; without one it is skipped.
macro_rules! members {
    ($type:ty { $($name:literal => $field:ident: $read:expr,)* }) => {
        impl Members for $type {
            fn member(&mut self, key: &str, value: &Json, reader: &mut Reader) {
                $(if matches(key, $name) {
                    return $read(reader, value, &mut self.$field);
                })*
            }
        }
    };
}

members!(Probe {
    "exec" => exec: Reader::object,
    "httpGet" => http_get: Reader::object,
    "tcpSocket" => tcp_socket: Reader::object,
    "grpc" => grpc: Reader::object,
    "initialDelaySeconds" => initial_delay_seconds: Reader::number,
    "timeoutSeconds" => timeout_seconds: Reader::number,
    "periodSeconds" => period_seconds: Reader::number,
    "successThreshold" => success_threshold: Reader::number,
    "failureThreshold" => failure_threshold: Reader::number,
    "terminationGracePeriodSeconds" => termination_grace_period_seconds: Reader::long,
});

members!(ExecAction {
    "command" => command: |reader: &mut Reader, value, into| reader.list(value, into, Reader::text),
});

members!(HttpGetAction {
    "path" => path: Reader::text,
    "port" => port: Reader::port,
    "host" => host: Reader::text,
    "scheme" => scheme: Reader::text,
    "httpHeaders" => http_headers:
        |reader: &mut Reader, value, into| reader.list(value, into, Reader::members),
});

members!(HttpHeader {
    "name" => name: Reader::text,
    "value" => value: Reader::text,
});

members!(TcpSocketAction {
    "port" => port: Reader::port,
    "host" => host: Reader::text,
});

members!(GrpcAction {
    "port" => port: Reader::number,
    "service" => service: Reader::optional_text,
});
