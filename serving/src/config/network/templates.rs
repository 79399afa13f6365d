//! Whether the controller could use a domain or tag template: it is tried out, as upstream does.
//! Upstream: `checkDomainTemplate` and `checkTagTemplate`.

use gotmpl::{MissingKey, Template, TemplateError, Value, tmap};

use crate::config::template_problem;
use crate::go::quote;

pub(super) const DEFAULT_DOMAIN: &str = "{{.Name}}.{{.Namespace}}.{{.Domain}}";
pub(super) const DEFAULT_TAG: &str = "{{.Tag}}-{{.Name}}";

/// The fields that are maps; what they hold depends on the Service.
const MAPS: [&str; 2] = ["Annotations", "Labels"];

/// The complaint about a template for domains, if there is one.
pub(super) fn check_domain(text: &str) -> Option<String> {
    let empty = Value::Map(std::sync::Arc::default());
    let fields = tmap! {
        "Name" => "foo",
        "Namespace" => "bar",
        "Domain" => "baz.com",
        "Annotations" => empty.clone(),
        "Labels" => empty,
    };
    match try_out("domain-template", text, &fields) {
        Ok(Some(domain)) => check_url(&domain),
        Ok(None) => None,
        Err(complaint) => Some(complaint),
    }
}

/// The complaint about a template for tags, if there is one.
pub(super) fn check_tag(text: &str) -> Option<String> {
    let fields = tmap! { "Name" => "foo", "Tag" => "v2" };
    try_out("tag-template", text, &fields).err()
}

/// What the template makes of the fields. Errors other than syntax and unknown fields are none of
/// ours: refusing a map because our template engine differs in a corner would stop the process.
fn try_out(name: &str, text: &str, fields: &Value) -> Result<Option<String>, String> {
    let parse = |missing| Template::new(name).missing_key(missing).parse(text);
    let strict = parse(MissingKey::Error).map_err(|error| template_problem(name, &error))?;
    if let Err(TemplateError::MissingKey { key }) = strict.execute_to_string(fields)
        && !MAPS
            .iter()
            .any(|map| text.contains(&format!("{map}.{key}")))
    {
        return Err(format!(
            "template: {name}:1: executing {}: can't evaluate field {key}",
            quote(name)
        ));
    }
    let lenient = parse(MissingKey::Invalid).map_err(|error| template_problem(name, &error))?;
    Ok(lenient.execute_to_string(fields).ok())
}

/// `https://<domain>` must be a URL with a host and without a path.
fn check_url(domain: &str) -> Option<String> {
    let without_fragment = domain.split('#').next().unwrap_or_default();
    let end = without_fragment
        .find(['/', '?'])
        .unwrap_or(without_fragment.len());
    let (authority, rest) = without_fragment.split_at(end);
    let host = authority.rsplit('@').next().unwrap_or_default();
    let invalid = |c: &char| c.is_ascii_control() || " {}|\\^`".contains(*c);
    if let Some(c) = host.chars().find(invalid) {
        return Some(format!(
            "parse {}: invalid character {} in host name",
            quote(&format!("https://{domain}")),
            quote(&c.to_string())
        ));
    }
    if host.is_empty() || host.starts_with(':') {
        return Some("empty hostname".to_owned());
    }
    let slash = if rest.starts_with('/') { "" } else { "/" };
    let uri = format!("{slash}{rest}");
    (uri != "/").then(|| format!("domain template has url path: {uri}"))
}
