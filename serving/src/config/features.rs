//! `config-features`: the flags that reach the data plane.
//! Upstream: `pkg/apis/config/features.go`.

use super::{Data, Reader};

/// The name of the ConfigMap.
pub const NAME: &str = "config-features";

/// The state of a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// On.
    Enabled,
    /// Off.
    Disabled,
    /// Off unless the workload asks for it.
    Allowed,
    /// Only of `secure-pod-defaults`: secure defaults that a workload may loosen.
    AllowRootBounded,
}

/// Feature flags. The many flags that only gate what a pod template may contain are not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// `autodetect-http2`: probe whether the app speaks HTTP/2 without TLS.
    pub auto_detect_http2: Flag,
    /// `multi-container`: pods may have several app containers.
    pub multi_container: Flag,
    /// `multi-container-probing`: all of them may have probes, which the queue-proxy executes.
    pub multi_container_probing: Flag,
    /// `queueproxy.mount-podinfo`: the pod's annotations are mounted into the queue-proxy.
    pub queue_proxy_mount_pod_info: Flag,
    /// `queueproxy.resource-defaults`: the queue-proxy gets default requests and limits.
    pub queue_proxy_resource_defaults: Flag,
    /// `secure-pod-defaults`: pods get a restrictive security context.
    pub secure_pod_defaults: Flag,
    /// `tag-header-based-routing`: a header may select a traffic tag.
    pub tag_header_based_routing: Flag,
}

// === impl Flag ===

impl Flag {
    /// The spelling of the reference.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "Enabled",
            Self::Disabled => "Disabled",
            Self::Allowed => "Allowed",
            Self::AllowRootBounded => "AllowRootBounded",
        }
    }
}

// === impl Features ===

impl Default for Features {
    fn default() -> Self {
        Self {
            auto_detect_http2: Flag::Disabled,
            multi_container: Flag::Enabled,
            multi_container_probing: Flag::Disabled,
            queue_proxy_mount_pod_info: Flag::Disabled,
            queue_proxy_resource_defaults: Flag::Disabled,
            secure_pod_defaults: Flag::Disabled,
            tag_header_based_routing: Flag::Disabled,
        }
    }
}

impl Features {
    /// Reads the flags on top of the defaults. A value that is no flag in any case (also one with
    /// blanks around it) leaves the default, so there is nothing to fail.
    /// Upstream: `NewFeaturesConfigFromMap`.
    pub fn parse(data: &Data) -> Self {
        const USUAL: &[Flag] = &[Flag::Enabled, Flag::Allowed, Flag::Disabled];
        const SECURITY: &[Flag] = &[Flag::Disabled, Flag::AllowRootBounded, Flag::Enabled];
        let reader = Reader::new(data);
        let mut features = Self::default();
        for (key, target, accepted) in [
            ("autodetect-http2", &mut features.auto_detect_http2, USUAL),
            ("multi-container", &mut features.multi_container, USUAL),
            (
                "multi-container-probing",
                &mut features.multi_container_probing,
                USUAL,
            ),
            (
                "queueproxy.mount-podinfo",
                &mut features.queue_proxy_mount_pod_info,
                USUAL,
            ),
            (
                "queueproxy.resource-defaults",
                &mut features.queue_proxy_resource_defaults,
                USUAL,
            ),
            (
                "secure-pod-defaults",
                &mut features.secure_pod_defaults,
                SECURITY,
            ),
            (
                "tag-header-based-routing",
                &mut features.tag_header_based_routing,
                USUAL,
            ),
        ] {
            let Some(raw) = reader.raw(key) else { continue };
            let found = accepted
                .iter()
                .find(|flag| raw.eq_ignore_ascii_case(flag.as_str()));
            if let Some(flag) = found {
                *target = *flag;
            }
        }
        features
    }
}
