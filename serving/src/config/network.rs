//! `config-network`: mesh and TLS settings of the data plane.
//! Upstream: `knative.dev/networking/pkg/config/config.go`.

mod templates;

use super::{Data, InvalidConfig, Reader};
use crate::go::quote;

/// The name of the ConfigMap.
pub const NAME: &str = "config-network";

/// `mesh-compatibility-mode`: whether pods can be addressed one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MeshCompatibilityMode {
    /// Try pod addresses, fall back to the Service when a mesh is in the way.
    #[default]
    Auto,
    /// Always use the Service.
    Enabled,
    /// Always use pod addresses.
    Disabled,
}

/// The settings that the data plane reads. Those that only the controller uses (ingress and
/// certificate classes, domain and tag templates, rollout, external TLS) must still parse. Label
/// selectors are the exception: they are taken as they stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// `mesh-compatibility-mode`.
    pub mesh_compatibility_mode: MeshCompatibilityMode,
    /// `enable-mesh-pod-addressability`: the mesh passes direct pod addressing through.
    pub enable_mesh_pod_addressability: bool,
    /// `system-internal-tls`: traffic to and from activators and queue-proxies is encrypted.
    pub system_internal_tls: bool,
    /// The legacy `internal-encryption`, also true when `system-internal-tls` is enabled.
    pub internal_encryption: bool,
}

// === impl MeshCompatibilityMode ===

impl MeshCompatibilityMode {
    /// The value in the ConfigMap.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
        }
    }
}

// === impl Network ===

impl Network {
    /// Parses the ConfigMap's data on top of the defaults. Upstream: `NewConfigFromMap`.
    pub fn parse(data: &Data) -> Result<Self, InvalidConfig> {
        let mut config = Self::default();
        let mut reader = Reader::new(data);
        let rest = config.read(&mut reader);
        reader.check()?;
        reader.require(rest.rollout_duration >= 0, || {
            format!(
                "rollout-duration must be a positive integer, but was {}",
                rest.rollout_duration
            )
        });
        for complaint in [
            templates::check_domain(&rest.domain_template),
            templates::check_tag(&rest.tag_template),
        ] {
            reader.problems.extend(complaint);
        }
        check_http_protocol(&mut reader);
        match encryption(&mut reader, "system-internal-tls") {
            true => {
                config.system_internal_tls = true;
                config.internal_encryption = true;
            }
            // Also when the newer key says "disabled" in so many words.
            false => config.system_internal_tls = config.internal_encryption,
        }
        encryption(&mut reader, "cluster-local-domain-tls");
        reader.check()?;
        Ok(config)
    }

    fn read(&mut self, reader: &mut Reader<'_>) -> Unused {
        let mut rest = Unused {
            rollout_duration: 0,
            domain_template: templates::DEFAULT_DOMAIN.to_owned(),
            tag_template: templates::DEFAULT_TAG.to_owned(),
        };
        // The legacy spellings come first, so that the newer ones win.
        let mut ignored = false;
        for key in ["domainTemplate", "domain-template"] {
            reader.string(key, &mut rest.domain_template);
        }
        for key in ["tagTemplate", "tag-template"] {
            reader.string(key, &mut rest.tag_template);
        }
        reader.int("rolloutDuration", &mut rest.rollout_duration);
        reader.boolean("autocreateClusterDomainClaims", &mut ignored);
        reader.int("rollout-duration", &mut rest.rollout_duration);
        reader.boolean("autocreate-cluster-domain-claims", &mut ignored);
        reader.boolean(
            "enable-mesh-pod-addressability",
            &mut self.enable_mesh_pod_addressability,
        );
        reader.boolean("internal-encryption", &mut self.internal_encryption);
        if let Some(raw) = reader.raw("mesh-compatibility-mode") {
            // An unknown mode silently means auto.
            self.mesh_compatibility_mode = [
                MeshCompatibilityMode::Enabled,
                MeshCompatibilityMode::Disabled,
            ]
            .into_iter()
            .find(|mode| raw.eq_ignore_ascii_case(mode.as_str()))
            .unwrap_or_default();
        }
        rest
    }
}

/// What must be valid although nothing here uses it.
struct Unused {
    rollout_duration: i64,
    domain_template: String,
    tag_template: String,
}

fn check_http_protocol(reader: &mut Reader<'_>) {
    let newer = reader.raw("http-protocol");
    let value = newer.or_else(|| reader.raw("httpProtocol"));
    let known = ["", "enabled", "disabled", "redirected"];
    let lower = value.unwrap_or_default().to_lowercase();
    reader.require(known.contains(&lower.as_str()), || {
        format!(
            "httpProtocol {} in config-network ConfigMap is not supported",
            newer.unwrap_or_default()
        )
    });
}

fn encryption(reader: &mut Reader<'_>, key: &str) -> bool {
    let raw = reader.raw(key).unwrap_or_default();
    match raw.to_lowercase().as_str() {
        "" | "disabled" => false,
        "enabled" => true,
        _ => {
            reader.problem(format!(
                "{key} with value: {} in config-network ConfigMap is not supported",
                quote(raw)
            ));
            false
        }
    }
}
