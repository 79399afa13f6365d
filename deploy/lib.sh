# What install and rollback share. Sourced, not run.
set -euo pipefail

deploy=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
namespace=knative-serving
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

# field PART JSONPATH
field() { serving get "$(object_of "$1")" --output "jsonpath={$2}"; }

image_of() {
    case $1 in
    sidecar) field sidecar .data.queue-sidecar-image ;;
    *) field "$1" ".spec.template.spec.containers[?(@.name==\"$1\")].image" ;;
    esac
}

annotation() { field "$1" ".metadata.annotations.${domain//./\\.}/$2"; }

# patch_back PART IMAGE: what puts the fields that we take over back to what they are now.
patch_back() {
    local quantity resources account more=
    if [[ $1 == sidecar ]]; then
        quantity=$(field sidecar ".data.$cpu_request")
        [[ $quantity ]] && quantity="\"$quantity\"" || quantity=null
        echo "{\"data\":{\"queue-sidecar-image\":\"$2\",\"$cpu_request\":$quantity}}"
        return
    fi
    resources=$(field "$1" ".spec.template.spec.containers[?(@.name==\"$1\")].resources")
    account=$(field "$1" .spec.template.spec.serviceAccountName)
    # $patch replaces the whole map, so that a limit of ours which upstream lacks goes.
    resources="{\"\$patch\":\"replace\",$(sed -E 's/^\{//' <<<"${resources:-{\}}")"
    resources=${resources/,\}/\}}
    if [[ $1 == activator ]]; then
        # What we and activator-ingress add; deleting what is not there changes nothing.
        more=',"env":[{"name":"PILOTLIGHT_AFFINITY_SECRET","$patch":"delete"},{"name":"PILOTLIGHT_INGRESS_CLASS","$patch":"delete"}],"ports":['
        more+='{"containerPort":8080,"$patch":"delete"},{"containerPort":8081,"$patch":"delete"},{"containerPort":8443,"$patch":"delete"}]'
    fi
    echo "{\"spec\":{\"template\":{\"spec\":{\"serviceAccountName\":\"$account\",\"containers\":[{\"name\":\"$1\",\"image\":\"$2\",\"resources\":$resources$more}]}}}}"
}

rolled_out() { [[ $1 == sidecar ]] || serving rollout status "deployment/$1" --timeout=300s; }
