//! What replaying a vector family needs: the list of families and a comparison with tolerances.

mod annotations;
mod breaker;
mod config;
mod decider;
mod scale;
mod stats;
mod status;
mod throttler;
mod window;
mod wire;

use serde_json::Value;

/// One vector file and how to replay it.
pub(crate) struct Family {
    /// The file is `<name>.json`.
    pub(crate) name: &'static str,
    /// Runs one case through our code.
    pub(crate) replay: fn(&Value) -> Verdict,
    pub(crate) tolerance: Tolerance,
}

/// How far two floats may be apart; integers, booleans and strings must be equal.
#[derive(Clone, Copy)]
pub(crate) struct Tolerance {
    pub(crate) absolute: f64,
    pub(crate) relative: f64,
}

/// What became of one case.
pub(crate) enum Verdict {
    /// Replayed: `got` has the shape of `expected`.
    Replayed { expected: Value, got: Value },
    /// Nothing replays this kind yet.
    Missing(String),
}

impl Verdict {
    /// The usual outcome: compare with the case's own `expected`.
    pub(crate) fn of(case: &Value, got: Value) -> Self {
        Verdict::Replayed {
            expected: case["expected"].clone(),
            got,
        }
    }
}

const DERIVED: Tolerance = Tolerance {
    absolute: 0.0,
    relative: 1e-9,
};
/// Linear averages are rounded to six decimals by the reference.
const AVERAGES: Tolerance = Tolerance {
    absolute: 1e-6,
    relative: 1e-9,
};

pub(crate) const FAMILIES: &[Family] = &[
    Family {
        name: "annotations",
        replay: annotations::replay,
        tolerance: DERIVED,
    },
    Family {
        name: "breaker",
        replay: breaker::replay,
        tolerance: DERIVED,
    },
    Family {
        name: "config",
        replay: config::replay,
        tolerance: DERIVED,
    },
    Family {
        name: "decider",
        replay: decider::replay,
        tolerance: AVERAGES,
    },
    Family {
        name: "scale",
        replay: scale::replay,
        tolerance: DERIVED,
    },
    Family {
        name: "stats",
        replay: stats::replay,
        tolerance: DERIVED,
    },
    Family {
        name: "status",
        replay: status::replay,
        tolerance: DERIVED,
    },
    Family {
        name: "throttler",
        replay: throttler::replay,
        tolerance: DERIVED,
    },
    Family {
        name: "window",
        replay: window::replay,
        tolerance: AVERAGES,
    },
    Family {
        name: "wire",
        replay: wire::replay,
        tolerance: DERIVED,
    },
];

/// The first place where two values differ.
pub(crate) struct Difference {
    pub(crate) path: String,
    pub(crate) expected: String,
    pub(crate) got: String,
}

/// Compares two JSON values; object key order has no meaning.
pub(crate) fn difference(
    expected: &Value,
    got: &Value,
    tolerance: Tolerance,
) -> Option<Difference> {
    compare("$", expected, got, tolerance)
}

fn compare(path: &str, expected: &Value, got: &Value, tolerance: Tolerance) -> Option<Difference> {
    let differs = || {
        Some(Difference {
            path: path.to_owned(),
            expected: shorten(expected),
            got: shorten(got),
        })
    };
    match (expected, got) {
        (Value::Object(e), Value::Object(g)) => {
            for (key, value) in e {
                let inner = format!("{path}.{key}");
                match g.get(key) {
                    Some(other) => {
                        if let Some(found) = compare(&inner, value, other, tolerance) {
                            return Some(found);
                        }
                    }
                    None => {
                        return Some(Difference {
                            path: inner,
                            expected: shorten(value),
                            got: "nothing".to_owned(),
                        });
                    }
                }
            }
            g.iter()
                .find(|(key, _)| !e.contains_key(*key))
                .map(|(key, value)| Difference {
                    path: format!("{path}.{key}"),
                    expected: "nothing".to_owned(),
                    got: shorten(value),
                })
        }
        (Value::Array(e), Value::Array(g)) => {
            for (index, (left, right)) in e.iter().zip(g).enumerate() {
                if let Some(found) = compare(&format!("{path}[{index}]"), left, right, tolerance) {
                    return Some(found);
                }
            }
            if e.len() == g.len() { None } else { differs() }
        }
        (Value::Number(e), Value::Number(g)) => {
            if e == g {
                return None;
            }
            match (e.as_f64(), g.as_f64()) {
                (Some(left), Some(right)) if !(e.is_i64() && g.is_i64()) || left.abs() > 9.0e15 => {
                    let allowed = tolerance
                        .absolute
                        .max(tolerance.relative * left.abs().max(right.abs()));
                    if (left - right).abs() <= allowed {
                        None
                    } else {
                        differs()
                    }
                }
                _ => differs(),
            }
        }
        _ if expected == got => None,
        _ => differs(),
    }
}

/// Enough of a value to see what is wrong.
fn shorten(value: &Value) -> String {
    const LIMIT: usize = 400;
    let text = value.to_string();
    match text.char_indices().nth(LIMIT) {
        Some((at, _)) => format!("{}… ({} bytes)", &text[..at], text.len()),
        None => text,
    }
}
