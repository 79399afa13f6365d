# The steps of .ci/run by hand. `just ci` runs them all.
set shell := ["bash", "-euo", "pipefail", "-c"]

default: ci

ci:
    .ci/run

fmt:
    cargo fmt --all --check

clippy:
    cargo clippy --workspace --all-targets --locked -- -D warnings
    cargo clippy -p activator -p autoscaler --no-default-features --locked -- -D warnings

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

test:
    cargo test --workspace --locked

# Replays the conformance vectors, or some families of them: `just vectors window wire`.
vectors *families:
    cargo test -p tests --test vectors -- {{families}}

bench-build:
    cargo check -p benches --benches --bins --locked

# The fuzzer's own C++ is not needed to check types.
fuzz-check:
    CUSTOM_LIBFUZZER_PATH=/none cargo check --manifest-path serving/fuzz/Cargo.toml --target-dir target/fuzz

# Each crate on its own, so that feature unification cannot hide a missing dependency.
check-each:
    for crate in serving queue-proxy activator autoscaler local benches tests; do cargo check -p "$crate" --locked; done

# A server-side dry run of every overlay, against an API server from KUBEBUILDER_ASSETS.
manifests:
    deploy/check

# The tests in the cluster that KUBECONFIG names; `import` brings an image there: COMMAND IMAGE PROGRAM.
cluster import *texts:
    deploy/images --binaries-only --sample-app --profile dev
    PILOTLIGHT_TEST_IMPORT={{quote(import)}} cargo test -p tests --test in_cluster --locked -- {{texts}}

# Licences, advisories, bans; needs cargo-deny.
deny:
    cargo deny check
