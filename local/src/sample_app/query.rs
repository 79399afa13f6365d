//! What the query of a request asks for.

use std::time::Duration;

/// Bytes a request may ask for in one piece or hold in memory.
const MAX_BYTES: usize = 4 << 30;

/// A parsed query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) sleep: Duration,
    pub(super) burn: Duration,
    pub(super) memory: usize,
    pub(super) stream: Option<u64>,
    pub(super) interval: Option<Duration>,
    pub(super) size: Option<usize>,
    pub(super) status: Option<u16>,
    pub(super) count: Option<u64>,
    pub(super) exit: Option<i32>,
    pub(super) breaks: bool,
}

impl Query {
    /// Reads a query; the name of the first parameter that cannot be read is the error.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let wrong = || format!("{name}: cannot read {value:?}");
            match name {
                "sleep" => query.sleep = duration(value).ok_or_else(wrong)?,
                "burn" => query.burn = duration(value).ok_or_else(wrong)?,
                "memory" => query.memory = bytes(value).ok_or_else(wrong)?,
                "stream" => query.stream = Some(value.parse().map_err(|_| wrong())?),
                "interval" => query.interval = Some(duration(value).ok_or_else(wrong)?),
                "size" => query.size = Some(bytes(value).ok_or_else(wrong)?),
                "status" => query.status = Some(value.parse().map_err(|_| wrong())?),
                "count" => query.count = Some(value.parse().map_err(|_| wrong())?),
                "exit" => query.exit = Some(value.parse().map_err(|_| wrong())?),
                "break" => query.breaks = value != "false",
                // Others are for whoever reads logs.
                _ => {}
            }
        }
        Ok(query)
    }
}

fn duration(text: &str) -> Option<Duration> {
    if let Ok(milliseconds) = text.parse() {
        return Some(Duration::from_millis(milliseconds));
    }
    let nanos = serving::go::parse_duration(text).ok()?;
    (nanos >= 0).then(|| serving::go::duration_to_std(nanos))
}

fn bytes(text: &str) -> Option<usize> {
    let (digits, unit) = text.split_at(
        text.find(|character: char| !character.is_ascii_digit())
            .unwrap_or(text.len()),
    );
    let unit: usize = match unit {
        "" => 1,
        "k" | "K" | "Ki" => 1 << 10,
        "M" | "Mi" => 1 << 20,
        "G" | "Gi" => 1 << 30,
        _ => return None,
    };
    let bytes = digits.parse::<usize>().ok()?.checked_mul(unit)?;
    (bytes <= MAX_BYTES).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read() {
        let query = Query::parse(
            "sleep=300&burn=1.5s&memory=2Mi&stream=3&interval=1ms&size=1k&status=503&x=y&&break",
        )
        .expect("valid");
        assert_eq!(query.sleep, Duration::from_millis(300));
        assert_eq!(query.burn, Duration::from_millis(1500));
        assert_eq!(query.memory, 2 << 20);
        assert_eq!(query.stream, Some(3));
        assert_eq!(query.interval, Some(Duration::from_millis(1)));
        assert_eq!(query.size, Some(1024));
        assert_eq!(query.status, Some(503));
        assert!(query.breaks);
        assert_eq!(Query::parse(""), Ok(Query::default()));
    }

    #[test]
    fn unreadable_ones_are_named() {
        for text in [
            "sleep=x",
            "sleep=-1s",
            "memory=5Ti",
            "memory=5Gi",
            "status=ok",
        ] {
            let name = text.split('=').next().expect("a name");
            let error = Query::parse(text).expect_err(text);
            assert!(error.starts_with(name), "{error}");
        }
    }
}
