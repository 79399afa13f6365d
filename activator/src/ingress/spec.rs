//! An Ingress as its controllers write it, and the hash by which they know that it is served.
//!
//! Serialising gives Go's JSON of the same type, for the hash is made of that. Upstream:
//! `pkg/apis/networking/v1alpha1/ingress_{types,defaults}.go` and `pkg/ingress/ingress.go` of
//! knative.dev/networking.

use std::collections::BTreeMap;
use std::fmt::Write;

use ring::digest;
use serde::{Deserialize, Serialize};

use crate::affinity::Affinity;

/// The annotation that names who serves an Ingress.
pub const CLASS_ANNOTATION: &str = "networking.knative.dev/ingress.class";

/// The value of `httpOption` that sends clients to HTTPS.
const REDIRECTED: &str = "Redirected";

/// An Ingress with what identifies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// Whether clients stay at their share of a split.
    pub affinity: Option<Affinity>,
    /// With defaults applied.
    pub spec: IngressSpec,
}

/// What is to be served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressSpec {
    /// Certificates for hosts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<IngressTls>,
    /// Which hosts lead where; the first that matches counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// `Enabled`, `Redirected` or nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub http_option: String,
}

/// A certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressTls {
    /// The names it is served for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// The Secret it is in.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub secret_name: String,
    /// That Secret's namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub secret_namespace: String,
}

/// Hosts that are served alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// Names without ports; none is every name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// From where it may be reached.
    #[serde(skip_serializing_if = "Visibility::is_unset")]
    pub visibility: Visibility,
    /// The paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
}

/// From where a rule may be reached.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Visibility {
    /// Not said: the next one.
    #[default]
    #[serde(rename = "")]
    Unset,
    /// From anywhere.
    ExternalIP,
    /// From within the cluster.
    ClusterLocal,
}

/// The paths of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Http {
    /// The first that matches counts.
    pub paths: Vec<Path>,
}

/// Requests that go the same way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Path {
    /// A prefix; nothing is every path.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The Host for the backend.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rewrite_host: String,
    /// Headers that a request must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, HeaderMatch>,
    /// The backends.
    pub splits: Vec<Split>,
    /// Headers that are set.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub append_headers: BTreeMap<String, String>,
}

/// What a header must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeaderMatch {
    /// The whole value.
    pub exact: String,
}

/// A share of the requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Split {
    /// The backend's namespace, which is the Ingress's.
    pub service_namespace: String,
    /// The Service.
    pub service_name: String,
    /// Its port.
    pub service_port: ServicePort,
    /// 0 to 100.
    #[serde(skip_serializing_if = "is_zero")]
    pub percent: u32,
    /// Headers that are set for this share.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub append_headers: BTreeMap<String, String>,
}

/// A number or a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ServicePort {
    /// A number.
    Number(u16),
    /// A name.
    Name(String),
}

impl Default for ServicePort {
    fn default() -> Self {
        Self::Number(0)
    }
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(percent: &u32) -> bool {
    *percent == 0
}

// === impl Visibility ===

impl Visibility {
    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    fn is_unset(&self) -> bool {
        *self == Self::Unset
    }
}

// === impl IngressSpec ===

impl IngressSpec {
    /// Fills in what the webhook fills in, so that the hash is the same with and without one.
    pub fn set_defaults(&mut self) {
        for rule in &mut self.rules {
            if rule.visibility.is_unset() {
                rule.visibility = Visibility::ExternalIP;
            }
            for path in rule.http.iter_mut().flat_map(|http| &mut http.paths) {
                if let [only] = &mut path.splits[..]
                    && only.percent == 0
                {
                    only.percent = 100;
                }
            }
        }
    }

    /// Whether clients of the plain port are sent to HTTPS.
    pub fn redirects(&self) -> bool {
        self.http_option == REDIRECTED
    }
}

// === impl Ingress ===

impl Ingress {
    /// Lower-case hex of SHA-256 over Go's JSON of the spec, the namespace and the name.
    pub fn hash(&self) -> String {
        let json = serde_json::to_string(&self.spec).expect("maps have text for keys");
        let mut hashed = digest::Context::new(&digest::SHA256);
        hashed.update(go_escaped(&json).as_bytes());
        hashed.update(self.namespace.as_bytes());
        hashed.update(self.name.as_bytes());
        let hash = hashed.finish();
        hash.as_ref()
            .iter()
            .fold(String::with_capacity(64), |mut text, byte| {
                // Writing to a String cannot fail.
                let _ = write!(text, "{byte:02x}");
                text
            })
    }
}

/// What Go's encoder escapes besides, all of which can only occur within strings.
fn go_escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '&' => escaped.push_str("\\u0026"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ingress(spec: serde_json::Value) -> Ingress {
        let mut spec: IngressSpec = serde_json::from_value(spec).unwrap();
        spec.set_defaults();
        Ingress {
            namespace: "ns".to_owned(),
            name: "ing".to_owned(),
            generation: 1,
            affinity: None,
            spec,
        }
    }

    const GOLDEN: &str = "2a0ece745a202629f7805374c8346dedfd9db747518d21a7a4076ae03c3cf2fc";

    /// Edge case 69: the hash is that of Go's JSON, whatever order and defaults came in.
    #[test]
    fn edge_case_69_hash() {
        let whole = ingress(json!({"rules": [{
            "hosts": ["a.example.com"],
            "visibility": "ExternalIP",
            "http": {"paths": [{"splits": [{
                "serviceNamespace": "ns", "serviceName": "rev-1", "servicePort": 80,
                "percent": 100,
                "appendHeaders": {
                    "Knative-Serving-Revision": "rev-1", "Knative-Serving-Namespace": "ns",
                },
            }]}]},
        }], "httpOption": "Enabled"}));
        assert_eq!(whole.hash(), GOLDEN);
        let undefaulted = ingress(json!({"httpOption": "Enabled", "rules": [{
            "http": {"paths": [{"splits": [{
                "servicePort": 80, "serviceName": "rev-1", "serviceNamespace": "ns",
                "appendHeaders": {
                    "Knative-Serving-Namespace": "ns", "Knative-Serving-Revision": "rev-1",
                },
            }]}]},
            "hosts": ["a.example.com"],
        }]}));
        assert_eq!(undefaulted.hash(), GOLDEN);
    }

    /// The fields that Go never leaves out, its escapes, and ports by name.
    #[test]
    fn edge_case_69_json_is_gos() {
        let ingress = ingress(json!({
            "tls": [{"hosts": ["a"], "secretName": "s", "secretNamespace": "ns"}],
            "rules": [{"http": {"paths": [{
                "path": "/a<b>&c",
                "headers": {"Knative-Serving-Tag": {}},
                "splits": [{"serviceName": "x", "servicePort": "http2"}, {"percent": 40}],
            }]}}],
        }));
        let json = go_escaped(&serde_json::to_string(&ingress.spec).unwrap());
        assert_eq!(
            json,
            r#"{"tls":[{"hosts":["a"],"secretName":"s","secretNamespace":"ns"}],"rules":[{"visibility":"ExternalIP","http":{"paths":[{"path":"/a\u003cb\u003e\u0026c","headers":{"Knative-Serving-Tag":{"exact":""}},"splits":[{"serviceNamespace":"","serviceName":"x","servicePort":"http2"},{"serviceNamespace":"","serviceName":"","servicePort":0,"percent":40}]}]}}]}"#
        );
    }
}
