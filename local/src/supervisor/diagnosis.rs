//! Why an app that runs is not ready, in words for its author.

use std::time::Duration;

use super::listening;

/// Between looks, as long as there is no readiness.
pub const PAUSES: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// After those.
pub const LAST_PAUSE: Duration = Duration::from_secs(10);

/// The look from which on the user is told without asking: an app may take two seconds.
pub const TOLD_FROM: usize = 2;

/// The reason for the app of a process group that was given `port`.
pub fn of(group: i32, port: u16) -> String {
    describe(listening::ports_of_group(group).into_iter().collect(), port)
}

fn describe(ports: Vec<u16>, port: u16) -> String {
    if ports.contains(&port) {
        return format!("the app listens on port {port} but its readiness probe does not succeed");
    }
    match ports.as_slice() {
        [] => format!("the app does not listen on its $PORT, {port}"),
        [other] => format!("the app listens on port {other} instead of its $PORT, {port}"),
        [others @ .., last] => {
            let others: Vec<_> = others.iter().map(ToString::to_string).collect();
            format!(
                "the app listens on ports {} and {last} instead of its $PORT, {port}",
                others.join(", ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_that_was_bound_is_named() {
        for (ports, expected) in [
            (vec![], "the app does not listen on its $PORT, 9"),
            (
                vec![3000],
                "the app listens on port 3000 instead of its $PORT, 9",
            ),
            (
                vec![1, 2, 3],
                "the app listens on ports 1, 2 and 3 instead of its $PORT, 9",
            ),
            (
                vec![1, 9],
                "the app listens on port 9 but its readiness probe does not succeed",
            ),
        ] {
            assert_eq!(describe(ports, 9), expected);
        }
    }
}
