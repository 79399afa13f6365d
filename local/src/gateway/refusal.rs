//! Answers of the gateway's own: 503 with `Retry-After` and a reason.

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serving::forward;
use serving::names::REASON_HEADER;

use super::{GatewayBody, Passing};
use crate::cluster::revision::Trouble;

/// The longest reason that is put into a header.
const MAX_REASON: usize = 500;

static REASON: HeaderName = HeaderName::from_static(REASON_HEADER);

/// Why a request is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    reason: String,
    retry_after: u64,
}

impl Refusal {
    /// A limit is reached.
    pub(super) fn busy(reason: &str) -> Self {
        Self {
            reason: reason.to_owned(),
            retry_after: 1,
        }
    }

    pub(super) fn response(&self, passing: Passing) -> Response<GatewayBody> {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let mut response = forward::error_response(status, &self.reason, (passing, None));
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(self.retry_after));
        add_reason(response.headers_mut(), &self.reason);
        response
    }
}

impl From<Trouble> for Refusal {
    fn from(trouble: Trouble) -> Self {
        Self {
            reason: trouble.reason,
            retry_after: trouble.retry_after,
        }
    }
}

/// Puts a reason into a response's header, replacing a less specific one.
pub(super) fn add_reason(headers: &mut HeaderMap, reason: &str) {
    let printable: String = reason
        .chars()
        .take(MAX_REASON)
        .map(|character| {
            if character.is_ascii_graphic() || character == ' ' {
                character
            } else {
                '?'
            }
        })
        .collect();
    if let Ok(value) = HeaderValue::from_str(&printable) {
        headers.insert(&REASON, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_carry_status_reason_and_time() {
        let refusal = Refusal::from(Trouble {
            reason: "ended:\nexit status 3 \u{e4}".into(),
            refuses: true,
            retry_after: 4,
        });
        let response = refusal.response(Passing::default());
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "4");
        assert_eq!(response.headers()[&REASON], "ended:?exit status 3 ?");
    }
}
