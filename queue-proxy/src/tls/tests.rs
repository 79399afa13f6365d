use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;

use super::*;

const FIRST: (&str, &str) = (
    include_str!("../../tests/certificates/first.crt"),
    include_str!("../../tests/certificates/first.key"),
);
const SECOND: (&str, &str) = (
    include_str!("../../tests/certificates/second.crt"),
    include_str!("../../tests/certificates/second.key"),
);

fn put(directory: &TempDir, (certificate, key): (&str, &str)) {
    fs::write(directory.path().join(CERTIFICATE), certificate).expect("written");
    fs::write(directory.path().join(KEY), key).expect("written");
}

fn settings(directory: &TempDir) -> TlsSettings {
    TlsSettings {
        directory: directory.path().to_owned(),
        policy: tls::PolicySettings::unset(&tls::QUEUE_PROXY),
    }
}

fn served(certificates: &Certificates) -> Vec<u8> {
    certificates.served.current().cert[0].to_vec()
}

fn der((certificate, _): (&str, &str)) -> Vec<u8> {
    CertificateDer::from_pem_slice(certificate.as_bytes())
        .expect("PEM")
        .to_vec()
}

#[test]
fn row_47_a_new_pair_is_served_and_a_bad_one_is_not() {
    let directory = TempDir::new().expect("a directory");
    assert!(!certificates_exist(&settings(&directory)).expect("readable"));
    put(&directory, FIRST);
    assert!(certificates_exist(&settings(&directory)).expect("readable"));
    let mut certificates = Certificates::load(&settings(&directory)).expect("a pair");
    assert_eq!(served(&certificates), der(FIRST));
    // Neither half a rotation, nor rubbish, nor a missing file changes anything.
    for bad in [(SECOND.0, FIRST.1), ("rubbish", SECOND.1), (SECOND.0, "")] {
        put(&directory, bad);
        certificates.compare();
        assert_eq!(served(&certificates), der(FIRST));
    }
    fs::remove_file(directory.path().join(KEY)).expect("removed");
    certificates.compare();
    assert_eq!(served(&certificates), der(FIRST));
    put(&directory, SECOND);
    certificates.compare();
    assert_eq!(served(&certificates), der(SECOND));
}

#[test]
fn a_first_pair_that_cannot_be_used_is_an_error() {
    let directory = TempDir::new().expect("a directory");
    for bad in [(FIRST.0, SECOND.1), ("", FIRST.1), (FIRST.0, "")] {
        put(&directory, bad);
        assert!(Certificates::load(&settings(&directory)).is_err());
    }
}

/// Row 47 as well: once a minute, for as long as the process lives.
#[tokio::test(start_paused = true)]
async fn the_files_are_compared_every_minute() {
    const MOMENT: Duration = Duration::from_millis(1);

    let directory = TempDir::new().expect("a directory");
    put(&directory, FIRST);
    let certificates = Certificates::load(&settings(&directory)).expect("a pair");
    let current = Arc::clone(&certificates.served);
    let served = || current.current().cert[0].to_vec();
    let _reload = tokio::spawn(certificates.reload());
    // The loop begins here, so that its minutes end a moment before ours.
    tokio::time::sleep(MOMENT).await;

    put(&directory, SECOND);
    tokio::time::sleep(RELOAD_INTERVAL - 2 * MOMENT).await;
    assert_eq!(served(), der(FIRST), "before the minute is over");
    tokio::time::sleep(2 * MOMENT).await;
    assert_eq!(served(), der(SECOND));

    put(&directory, (FIRST.0, SECOND.1));
    tokio::time::sleep(RELOAD_INTERVAL).await;
    assert_eq!(served(), der(SECOND), "a pair that does not fit");
    put(&directory, FIRST);
    assert_eq!(served(), der(SECOND));
    tokio::time::sleep(RELOAD_INTERVAL).await;
    assert_eq!(served(), der(FIRST), "and is tried again");
}
