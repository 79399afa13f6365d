# What install and rollback share. Sourced, not run.
set -euo pipefail

deploy=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Where Serving is, unless --namespace names another one; the manifests name this one.
default_namespace=knative-serving
namespace=$default_namespace
domain=pilotlight.dev
default_prefix=pilotlight
# A queue-sidecar CPU request that is not set is put back as not set.
cpu_request=queue-sidecar-cpu-request

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

serving() { kubectl --namespace "$namespace" "$@"; }

# parts_of PART: the parts that an overlay changes.
parts_of() {
    case $1 in
    # The sidecar comes last: it rolls the pods of all revisions.
    full) echo activator autoscaler sidecar ;;
    activator-ingress) echo activator ;;
    sidecar | activator | autoscaler) echo "$1" ;;
    *) return 1 ;;
    esac
}

# object_of PART: where its image is named.
object_of() { [[ $1 == sidecar ]] && echo configmap/config-deployment || echo "deployment/$1"; }

patch_type() { [[ $1 == sidecar ]] && echo merge || echo strategic; }

# cpu_request_is_ours: whether the sidecar's is still the one that the overlay lays. An upgrade of
# Serving leaves it, as upstream's manifest does not name it.
cpu_request_is_ours() {
    local quantity
    quantity=$(field sidecar ".data.$cpu_request") || die "cannot read $(object_of sidecar)"
    [[ $quantity == "$(sed -n "s/^ *$cpu_request: *//p" "$deploy/sidecar/config-deployment.yaml")" ]]
}

# field PART JSONPATH
field() { serving get "$(object_of "$1")" --output "jsonpath={$2}"; }

image_of() {
    case $1 in
    sidecar) field sidecar .data.queue-sidecar-image ;;
    *) field "$1" ".spec.template.spec.containers[?(@.name==\"$1\")].image" ;;
    esac
}

account_of() { field "$1" .spec.template.spec.serviceAccountName; }

# look PART: sets current and account to what the part runs with, and first, back, installed and
# installing to what install has noted on it. All at once and checked, since a note that could not be
# read must not count as one that is not there.
look() {
    local note=".metadata.annotations.${domain//./\\.}" image=.data.queue-sidecar-image path lines=
    [[ $1 == sidecar ]] || image=".spec.template.spec.containers[?(@.name==\"$1\")].image"
    for path in "$image" .spec.template.spec.serviceAccountName \
        "$note/first-image" "$note/rollback" "$note/installed-image" "$note/installing-image"; do
        lines+="{$path}{\"\\n\"}"
    done
    lines=$(serving get "$(object_of "$1")" --output "jsonpath=$lines") ||
        die "cannot read $(object_of "$1") in namespace $namespace; Knative Serving has to be installed there"
    mapfile -t lines <<<"$lines"
    current=${lines[0]-} account=${lines[1]-} first=${lines[2]-} back=${lines[3]-}
    installed=${lines[4]-} installing=${lines[5]-}
}

# repository IMAGE: its name without tag and digest.
repository() {
    local image=${1%%@*}
    [[ ${image##*/} != *:* ]] || image=${image%:*}
    echo "$image"
}

# is_ours: whether the part that was looked at runs what install has laid over it, or began to, or
# another image of the same name, which somebody has set by hand. Where upstream's image has the same
# name, as in a mirror, the name says nothing.
is_ours() {
    local laid name
    name=$(repository "$current")
    for laid in "$installed" "$installing"; do
        [[ $first && $laid ]] || continue
        [[ $current != "$laid" ]] || return 0
        [[ $name != "$(repository "$laid")" || $name == "$(repository "$first")" ]] || return 0
    done
    return 1
}

account_is_ours() { [[ $account == "pilotlight-$1" ]]; }

# patch_back PART IMAGE: what puts the fields that we take over back to what they are now.
patch_back() {
    local quantity resources account
    if [[ $1 == sidecar ]]; then
        quantity=$(field sidecar ".data.$cpu_request") || return 1
        [[ $quantity ]] && quantity="\"$quantity\"" || quantity=null
        echo "{\"data\":{\"queue-sidecar-image\":\"$2\",\"$cpu_request\":$quantity}}"
        return
    fi
    resources=$(field "$1" ".spec.template.spec.containers[?(@.name==\"$1\")].resources") || return 1
    account=$(account_of "$1") || return 1
    # $patch replaces the whole map, so that a limit of ours which upstream lacks goes.
    resources="{\"\$patch\":\"replace\",$(sed -E 's/^\{//' <<<"${resources:-{\}}")"
    resources=${resources/,\}/\}}
    echo "{\"spec\":{\"template\":{\"spec\":{\"serviceAccountName\":\"$account\",\"containers\":[{\"name\":\"$1\",\"image\":\"$2\",\"resources\":$resources$(without_ours "$1")}]}}}}"
}

# without_ours PART: the part of a container's patch that takes away what we and activator-ingress add;
# deleting what is not there changes nothing.
without_ours() {
    [[ $1 == activator ]] || return 0
    echo -n ',"env":[{"name":"PILOTLIGHT_AFFINITY_SECRET","$patch":"delete"},{"name":"PILOTLIGHT_INGRESS_CLASS","$patch":"delete"}],"ports":['
    echo -n '{"containerPort":8080,"$patch":"delete"},{"containerPort":8081,"$patch":"delete"},{"containerPort":8443,"$patch":"delete"}]'
}

rolled_out() { [[ $1 == sidecar ]] || serving rollout status "deployment/$1" --timeout=300s; }

# lay_over [FLAG...]: takes the objects on standard input. Ours, which say so by a label, are applied.
# Upstream's are there and are patched, which leaves kubectl's note of how they were applied as it is.
lay_over() (
    folder=$(mktemp -d)
    trap 'rm -r "$folder"' EXIT
    awk -v folder="$folder" '/^---$/ { at++; next } { print > sprintf("%s/%03d.yaml", folder, at) }'
    ours=() theirs=()
    for object in "$folder"/*.yaml; do
        if grep -q "^    $domain/part:" "$object"; then ours+=(-f "$object"); else theirs+=("$object"); fi
    done
    # Accounts and roles are there before anything runs with them.
    ((${#ours[@]} == 0)) || kubectl apply --server-side --force-conflicts --field-manager=pilotlight "$@" "${ours[@]}" || exit 1
    for object in "${theirs[@]}"; do
        kubectl patch --type strategic --field-manager=pilotlight "$@" -f "$object" --patch-file "$object" || exit 1
    done
)

# pods_of PART: those that run under its account of ours.
pods_of() {
    serving get pods --output name \
        --field-selector "spec.serviceAccountName=pilotlight-$1,status.phase!=Failed,status.phase!=Succeeded"
}

# no_pods_of PART: waits until none does. A pod that ends finishes its requests first, and asks the API
# server for what they need meanwhile; `rollout status` does not wait for it.
no_pods_of() {
    local pods grace bound
    pods=$(pods_of "$1")
    [[ $pods ]] || return 0
    grace=$(field "$1" .spec.template.spec.terminationGracePeriodSeconds)
    # The kubelet takes its time as well.
    bound=$((${grace:-30} + 60))
    echo "$1: waits at most $bound s until these have finished their requests: ${pods//[[:space:]]/ }"
    SECONDS=0
    while [[ $pods ]]; do
        ((SECONDS < bound)) || die "still there after $bound s: ${pods//[[:space:]]/ }; rollback goes on where it was when it is run again"
        sleep 1
        pods=$(pods_of "$1")
    done
}
