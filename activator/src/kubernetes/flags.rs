//! The command line that Knative's programs share: how to reach the API server, and klog's flags,
//! which are accepted and mean nothing here.
//!
//! Upstream: `knative.dev/pkg/environment/client_config.go`.

/// Where the API server is, as far as the command line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--kubeconfig`: a file.
    pub kubeconfig: Option<String>,
    /// `--server`: the API server's URL, instead of the file's.
    pub server: Option<String>,
    /// `--cluster`: the cluster of the file to use.
    pub cluster: Option<String>,
}

/// A flag that upstream does not know either, or one without its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// Not a flag of this program.
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    /// A flag at the end that needs a value.
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
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
    /// after `=` or as the next argument.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, UsageError> {
        let mut flags = Self::default();
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
                "kubeconfig" => Some(&mut flags.kubeconfig),
                "server" => Some(&mut flags.server),
                "cluster" => Some(&mut flags.cluster),
                // The client here has no rate limit of its own.
                "kube-api-burst" | "kube-api-qps" => None,
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
                *slot = Some(value).filter(|value| !value.is_empty());
            }
        }
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Flags, UsageError> {
        Flags::parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn go_forms() {
        let expected = Flags {
            kubeconfig: Some("/k".to_owned()),
            server: Some("https://a".to_owned()),
            cluster: None,
        };
        let text = "--kubeconfig /k -server=https://a -v 4 --logtostderr --kube-api-qps=5";
        assert_eq!(parse(text), Ok(expected));
        assert_eq!(parse(""), Ok(Flags::default()));
    }

    #[test]
    fn usage_errors() {
        assert_eq!(parse("--nope"), Err(UsageError::Unknown("nope".into())));
        assert_eq!(parse("-server"), Err(UsageError::NoValue("server".into())));
        assert_eq!(parse("x"), Err(UsageError::Argument("x".into())));
    }
}
