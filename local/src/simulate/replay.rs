//! `--scenario`: the cases of a `decider` vector file, tick by tick, and compared with what the
//! file expects.

use std::io::{Read, Write};

use autoscaler::simulation::scenario::{self, Report, Scenario, Tick};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::options::Simulate;
use super::{Simulated, input, put_line};
use crate::exit::{self, Exit};

/// How far averages may be apart, as the vectors say: linear ones are rounded to six decimals.
const ABSOLUTE: f64 = 1e-6;
const RELATIVE: f64 = 1e-9;

/// One tick, named.
#[derive(Serialize)]
struct TickLine<'a> {
    case: &'a str,
    /// Its position among the ticks of its case.
    tick: usize,
    #[serde(flatten)]
    values: &'a Tick,
}

/// Replays what `path` holds.
pub(super) fn replay(
    options: &Simulate,
    path: &str,
    stdin: &mut dyn Read,
    out: &mut dyn Write,
) -> Result<Simulated, Exit> {
    let invalid = |what: String| Exit::new(exit::INVALID_MANIFEST, format!("{path}: {what}"));
    let text = input::read(path, stdin)?;
    let file: Value =
        serde_json::from_str(&text).map_err(|error| invalid(format!("not JSON: {error}")))?;
    let cases = cases(&file).ok_or_else(|| {
        invalid("no cases: expected {\"cases\": [...]}, one case, or the input of one".to_owned())
    })?;
    let mut replayed = 0;
    for (index, case) in cases.into_iter().enumerate() {
        let id = case["id"]
            .as_str()
            .map_or_else(|| index.to_string(), str::to_owned);
        if options.case.as_ref().is_some_and(|wanted| *wanted != id) {
            continue;
        }
        replayed += 1;
        let of_case = |what: String| invalid(format!("case {id}: {what}"));
        let scenario = case.get("input").unwrap_or(case);
        let scenario =
            Scenario::deserialize(scenario).map_err(|error| of_case(error.to_string()))?;
        let report = scenario::replay(&scenario).map_err(|error| of_case(causes(&error)))?;
        let expected = case.get("expected");
        if options.check && expected.is_none() {
            return Err(of_case(
                "nothing is expected, so there is nothing to check".to_owned(),
            ));
        }
        let expected = expected.filter(|_| options.check);
        if let Some(difference) = replay_case(&id, &report, expected, out)? {
            return Ok(Simulated {
                difference: Some(format!("{path}: case {id}: {difference}")),
                ..Simulated::default()
            });
        }
    }
    match &options.case {
        Some(wanted) if replayed == 0 => Err(invalid(format!("no case has the id {wanted:?}"))),
        _ => Ok(Simulated::default()),
    }
}

fn cases(file: &Value) -> Option<Vec<&Value>> {
    if let Some(cases) = file.get("cases") {
        return Some(cases.as_array()?.iter().collect());
    }
    (file.get("input").is_some() || file.get("ticks").is_some()).then(|| vec![file])
}

/// Prints ticks up to the first that is not as expected.
fn replay_case(
    id: &str,
    report: &Report,
    expected: Option<&Value>,
    out: &mut dyn Write,
) -> Result<Option<String>, Exit> {
    if let Some(found) = expected.and_then(|expected| once(expected, report)) {
        return Ok(Some(found));
    }
    for (tick, values) in report.ticks.iter().enumerate() {
        put_line(
            out,
            &TickLine {
                case: id,
                tick,
                values,
            },
        )?;
        let Some(expected) = expected else { continue };
        for (field, got) in object(values) {
            // What a tick was given is not what came of it.
            if matches!(&*field, "at" | "ready") {
                continue;
            }
            let expected = element(&expected[&field], tick);
            if let Some(found) = difference(&field, &expected, &got) {
                return Ok(Some(format!("tick {tick} at {} ms: {found}", values.at)));
            }
        }
    }
    Ok(None)
}

/// Compares what is expected once, and the number of ticks.
fn once(expected: &Value, report: &Report) -> Option<String> {
    let mut got = object(report);
    got.remove("ticks");
    if report.updates.is_empty() {
        got.remove("updates");
    }
    let columns = report.ticks.first().map(object).unwrap_or_default();
    let Some(expected) = expected.as_object() else {
        return Some("what is expected is not an object".to_owned());
    };
    for (field, value) in expected {
        let found = match got.get(field) {
            Some(got) => difference(field, value, got),
            None if columns.contains_key(field) => length(field, value, report.ticks.len()),
            None => Some(format!("{field}: not known here")),
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// Whether a column has an entry for each tick, no more and no less.
fn length(field: &str, column: &Value, ticks: usize) -> Option<String> {
    let length = match column {
        Value::Array(values) => values.len(),
        Value::String(characters) => characters.chars().count(),
        Value::Object(columns) => {
            return columns
                .iter()
                .find_map(|(name, column)| length(&format!("{field}.{name}"), column, ticks));
        }
        _ => 0,
    };
    (length != ticks).then(|| format!("{field}: expected {length} ticks, got {ticks}"))
}

/// The entry of a tick: columns are lists, or texts of a character per tick.
fn element(column: &Value, tick: usize) -> Value {
    match column {
        Value::Array(values) => values.get(tick).cloned().unwrap_or_default(),
        Value::String(characters) => {
            let character = characters.chars().nth(tick);
            character.map_or(Value::Null, |it| Value::String(it.to_string()))
        }
        Value::Object(columns) => {
            let entry = |(name, column): (&String, &Value)| (name.clone(), element(column, tick));
            Value::Object(columns.iter().map(entry).collect())
        }
        _ => Value::Null,
    }
}

/// The first place where two values differ. A boolean is 1 or 0 in the vectors.
fn difference(path: &str, expected: &Value, got: &Value) -> Option<String> {
    let equal = match (expected, got) {
        (Value::Object(expected), Value::Object(got)) => {
            let names = expected.keys().chain(got.keys());
            return names.into_iter().find_map(|name| {
                let of = |map: &Map<String, Value>| map.get(name).cloned().unwrap_or_default();
                difference(&format!("{path}.{name}"), &of(expected), &of(got))
            });
        }
        (Value::Array(expected), Value::Array(got)) if expected.len() == got.len() => {
            let pairs = expected.iter().zip(got).enumerate();
            return pairs.into_iter().find_map(|(index, (expected, got))| {
                difference(&format!("{path}[{index}]"), expected, got)
            });
        }
        (Value::String(digit), Value::Bool(got)) => digit == if *got { "1" } else { "0" },
        (Value::Number(expected), Value::Number(got)) => same_number(expected, got),
        _ => expected == got,
    };
    (!equal).then(|| format!("{path}: expected {expected}, got {got}"))
}

fn same_number(expected: &serde_json::Number, got: &serde_json::Number) -> bool {
    match (expected.as_i64(), got.as_i64()) {
        (Some(expected), Some(got)) => expected == got,
        _ => match (expected.as_f64(), got.as_f64()) {
            (Some(expected), Some(got)) => {
                let allowed = ABSOLUTE.max(RELATIVE * expected.abs().max(got.abs()));
                (expected - got).abs() <= allowed
            }
            _ => false,
        },
    }
}

fn object(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

/// An error with its causes.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_are_found_where_they_are() {
        let found = |expected: Value, got: Value| difference("x", &expected, &got);
        assert_eq!(found(json!({"a": [1, "1"]}), json!({"a": [1, true]})), None);
        assert_eq!(found(json!(1.0), json!(1.000_000_4)), None);
        assert_eq!(
            found(json!({"a": [1, 2]}), json!({"a": [1, 3]})).unwrap(),
            "x.a[1]: expected 2, got 3"
        );
        for (expected, got) in [
            (json!(1), json!(2)),
            (json!(1.0), json!(1.000_002)),
            (json!("1"), json!(false)),
            (json!(null), json!(0)),
            (json!([1]), json!([1, 2])),
            (json!({}), json!({"a": 1})),
            (json!({"a": 1}), json!({})),
        ] {
            assert!(
                found(expected.clone(), got.clone()).is_some(),
                "{expected} {got}"
            );
        }
    }

    #[test]
    fn columns_are_lists_texts_or_groups_of_them() {
        let column = json!({"want": [1, 2], "mode": "PS"});
        assert_eq!(element(&column, 1), json!({"want": 2, "mode": "S"}));
        assert_eq!(element(&column, 2), json!({"want": null, "mode": null}));
        assert_eq!(length("c", &column, 2), None);
        assert_eq!(
            length("c", &column, 3).unwrap(),
            "c.mode: expected 2 ticks, got 3"
        );
    }
}
