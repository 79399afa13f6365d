//! The command line that Knative's programs share: how to reach the API server, how often, and
//! klog's flags, which are accepted and mean nothing here.
//!
//! Upstream: `knative.dev/pkg/environment/client_config.go`. Upstream overwrites the two limits, so
//! that its flags have no effect; here they have.

use serving::environment::Environment;

/// Requests per second to the API server unless told otherwise. Upstream's 10 would make a hundred
/// revisions that wake at once wait for ten seconds.
pub const DEFAULT_QPS: f64 = 200.0;
/// Requests at once after a pause.
pub const DEFAULT_BURST: u32 = 400;

/// What the command line says.
#[derive(Clone, Debug, PartialEq)]
pub struct Flags {
    /// `--kubeconfig`, else `KUBECONFIG`: a file.
    pub kubeconfig: Option<String>,
    /// `--server`: the API server's URL, instead of the file's.
    pub server: Option<String>,
    /// `--cluster`: the cluster of the file to use.
    pub cluster: Option<String>,
    /// `--kube-api-qps`, else `KUBE_API_QPS`; 0: [`DEFAULT_QPS`], negative: no limit.
    pub qps: f64,
    /// `--kube-api-burst`, else `KUBE_API_BURST`; 0: [`DEFAULT_BURST`].
    pub burst: u32,
}

/// The command line cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// Not a flag of this program.
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    /// A flag at the end that needs a value.
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    /// A number that is none.
    #[error("invalid value {value:?} for flag -{name}")]
    Number {
        /// The flag.
        name: &'static str,
        /// What was given.
        value: String,
    },
    /// Not a flag at all.
    #[error("unexpected argument {0:?}")]
    Argument(String),
}

/// klog's flags that take a value.
const KLOG_VALUES: [&str; 8] = [
    "log_backtrace_at",
    "log_dir",
    "log_file",
    "log_file_max_size",
    "stderrthreshold",
    "v",
    "vmodule",
    "legacy_stderr_threshold_behavior",
];
/// klog's flags that may stand alone.
const KLOG_SWITCHES: [&str; 6] = [
    "add_dir_header",
    "alsologtostderr",
    "logtostderr",
    "one_output",
    "skip_headers",
    "skip_log_headers",
];

// === impl Flags ===

impl Flags {
    /// Reads the arguments after the program's name, in Go's forms: one or two dashes, the value
    /// after `=` or as the next argument. Defaults come from `environment`.
    pub fn parse(
        arguments: impl IntoIterator<Item = String>,
        environment: &dyn Environment,
    ) -> Result<Self, UsageError> {
        let mut kubeconfig = environment.variable("KUBECONFIG");
        let mut qps = environment.variable("KUBE_API_QPS");
        let mut burst = environment.variable("KUBE_API_BURST");
        let (mut server, mut cluster) = (None, None);
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let name = argument
                .strip_prefix("--")
                .or_else(|| argument.strip_prefix('-'))
                .filter(|name| !name.is_empty())
                .ok_or_else(|| UsageError::Argument(argument.clone()))?;
            let (name, inline) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            if KLOG_SWITCHES.contains(&name) {
                continue;
            }
            let slot = match name {
                "kubeconfig" => Some(&mut kubeconfig),
                "server" => Some(&mut server),
                "cluster" => Some(&mut cluster),
                "kube-api-qps" => Some(&mut qps),
                "kube-api-burst" => Some(&mut burst),
                name if KLOG_VALUES.contains(&name) => None,
                name => return Err(UsageError::Unknown(name.to_owned())),
            };
            let value = match inline {
                Some(value) => value,
                None => arguments
                    .next()
                    .ok_or_else(|| UsageError::NoValue(name.to_owned()))?,
            };
            if let Some(slot) = slot {
                *slot = Some(value);
            }
        }
        let some = |value: Option<String>| value.filter(|value| !value.is_empty());
        let qps: f64 = number("kube-api-qps", some(qps))?;
        let burst: u32 = number("kube-api-burst", some(burst))?;
        Ok(Self {
            kubeconfig: some(kubeconfig),
            server: some(server),
            cluster: some(cluster),
            qps: if qps == 0.0 { DEFAULT_QPS } else { qps },
            burst: if burst == 0 { DEFAULT_BURST } else { burst },
        })
    }
}

fn number<T: std::str::FromStr + Default>(
    name: &'static str,
    value: Option<String>,
) -> Result<T, UsageError> {
    value.map_or(Ok(T::default()), |value| {
        value
            .parse()
            .map_err(|_| UsageError::Number { name, value })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn parse(text: &str) -> Result<Flags, UsageError> {
        let environment = HashMap::from([("KUBE_API_BURST".to_owned(), "7".to_owned())]);
        Flags::parse(text.split_whitespace().map(str::to_owned), &environment)
    }

    #[test]
    fn go_forms_and_variables() {
        let flags = parse("--kubeconfig /k -server=https://a -v 4 --logtostderr --kube-api-qps=5");
        let expected = Flags {
            kubeconfig: Some("/k".to_owned()),
            server: Some("https://a".to_owned()),
            cluster: None,
            qps: 5.0,
            burst: 7,
        };
        assert_eq!(flags, Ok(expected));
        assert_eq!(parse("").unwrap().qps, DEFAULT_QPS);
        assert_eq!(parse("-kube-api-burst 0").unwrap().burst, DEFAULT_BURST);
    }

    #[test]
    fn usage_errors() {
        assert_eq!(parse("--nope"), Err(UsageError::Unknown("nope".into())));
        assert_eq!(parse("-server"), Err(UsageError::NoValue("server".into())));
        assert_eq!(parse("x"), Err(UsageError::Argument("x".into())));
        let error = parse("--kube-api-qps many").unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid value \"many\" for flag -kube-api-qps"
        );
    }
}
