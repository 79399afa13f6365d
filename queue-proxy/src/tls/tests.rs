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
