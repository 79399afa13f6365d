use proptest::prelude::*;

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn an_activators_report_has_upstreams_bytes() {
    let mut batch = StatBatch::new();
    let busy = StatRef {
        pod_name: "activator-0",
        average_concurrent_requests: 1.0,
        request_count: 1.0,
        ..StatRef::default()
    };
    batch.push("ns", "rev-1", &busy).unwrap();
    assert_eq!(
        hex(&batch.take()),
        "0a2c0a026e7312057265762d311a1f0a0b616374697661746f722d30\
         11000000000000f03f21000000000000f03f"
    );
    let idle = StatRef {
        pod_name: "activator-0",
        ..StatRef::default()
    };
    batch.push("ns", "rev-1", &idle).unwrap();
    assert_eq!(batch.len(), 1);
    assert_eq!(
        hex(&batch.take()),
        "0a1a0a026e7312057265762d311a0d0a0b616374697661746f722d30"
    );
    assert!(batch.is_empty() && batch.take().is_empty());
}

#[test]
fn the_longest_pod_name_fits_a_scrape() {
    let stat = Stat {
        pod_name: "p".repeat(253),
        average_concurrent_requests: 1.5,
        average_proxied_concurrent_requests: 1.5,
        request_count: 1.5,
        proxied_request_count: 1.5,
        process_uptime: 1.5,
        timestamp: -1,
    };
    let body = stat.encode_to_vec();
    assert!(body.len() <= MAX_SCRAPE_BYTES);
    assert_eq!(Stat::from_scrape(&body).unwrap(), stat);
}

#[test]
fn a_scrape_ends_at_the_limit() {
    let body = Stat::of_pod("p".repeat(MAX_SCRAPE_BYTES - 3)).encode_to_vec();
    assert_eq!(body.len(), MAX_SCRAPE_BYTES);
    assert!(Stat::from_scrape(&body).is_ok());
    let body = Stat::of_pod("p".repeat(MAX_SCRAPE_BYTES - 2)).encode_to_vec();
    assert!(Stat::from_scrape(&body).is_err());
}

#[test]
fn a_batch_ends_at_both_limits() {
    let mut batch = StatBatch::new();
    for _ in 0..MAX_FRAME_MESSAGES {
        batch.push("", "", &StatRef::default()).unwrap();
    }
    assert_eq!(batch.push("", "", &StatRef::default()), Err(BatchFull));
    let frame = batch.take();
    let decoded = WireStatMessages::from_frame(&frame).unwrap();
    assert_eq!(decoded.messages.len(), MAX_FRAME_MESSAGES);

    let name = "n".repeat(MAX_FRAME_BYTES / 2);
    batch.push("", &name, &StatRef::default()).unwrap();
    assert_eq!(batch.push("", &name, &StatRef::default()), Err(BatchFull));
    assert!(WireStatMessages::from_frame(&batch.take()).is_ok());
}

#[test]
fn a_frame_beyond_the_limits_is_refused() {
    let many = [0x0a, 0x00].repeat(MAX_FRAME_MESSAGES + 1);
    assert!(matches!(
        WireStatMessages::from_frame(&many),
        Err(FrameError::TooManyMessages)
    ));
    assert!(matches!(
        WireStatMessages::from_frame(&vec![0; MAX_FRAME_BYTES + 1]),
        Err(FrameError::TooLong { .. })
    ));
}

prop_compose! {
    fn any_stat()(
        pod_name in "[a-z0-9üñ-]{0,200}",
        doubles in prop::array::uniform5(prop_oneof![Just(0.0), Just(-0.0), any::<f64>()]),
        timestamp in prop_oneof![Just(0), any::<i64>()],
    ) -> Stat {
        let [average_concurrent_requests, average_proxied_concurrent_requests, request_count,
            proxied_request_count, process_uptime] = doubles;
        Stat {
            pod_name, average_concurrent_requests, average_proxied_concurrent_requests,
            request_count, proxied_request_count, process_uptime, timestamp,
        }
    }
}

proptest! {
    #[test]
    fn a_batch_is_the_encoding_of_the_messages(
        entries in prop::collection::vec(("[a-z-]{0,140}", "[a-z-]{0,140}", any_stat()), 0..6)
    ) {
        let mut batch = StatBatch::new();
        let mut messages = Vec::new();
        for (namespace, name, stat) in entries {
            batch.push(&namespace, &name, &stat.borrowed()).unwrap();
            messages.push(WireStatMessage { namespace, name, stat: Some(stat) });
        }
        prop_assert_eq!(&batch.take()[..], WireStatMessages { messages }.encode_to_vec());
    }
}
