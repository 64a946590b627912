#!/bin/sh
# Builds the program for a device, with every driver: one command, from an x86-64 or an Arm machine.
#
#   deploy/build.sh amd64|arm64 [BOARD]
#
# Prints the path of the binary. Takes the toolchain's own target where it is installed (`rustup target add
# aarch64-unknown-linux-gnu`), else Debian's packaged compiler; as root it installs the packages that are missing.
# ATTENDANT_FEATURES are what is built in (v4l,alsa,gpio,web,mqtt), ATTENDANT_PROFILE the profile (release), ATTENDANT_CARGO more arguments
# for cargo. A release has the same bytes wherever it is built (deploy/reproducible.sh): no path of this machine is in it. With
# ATTENDANT_TESTS=PACKAGE the unit tests of that package are built instead, and it is their path that is printed.
set -eu
cd "$(dirname "$0")/.."

arch=$1
case $arch in
    amd64) triple=x86_64-unknown-linux-gnu board=${2:-host} ;;
    arm64) triple=aarch64-unknown-linux-gnu board=${2:-generic-arm64} ;;
    *) echo "usage: $0 amd64|arm64 [BOARD]" >&2; exit 2 ;;
esac
features=${ATTENDANT_FEATURES-v4l,alsa,gpio,web,mqtt}
profile=${ATTENDANT_PROFILE:-release}
target=${CARGO_TARGET_DIR:-target}
folder=$profile
[ "$profile" != dev ] || folder=debug

# What the compilers write into the program as a file's place: from the checkout or from the registry, wherever these are.
if [ "$profile" = release ]; then
    registry=${CARGO_HOME:-$HOME/.cargo}
    export RUSTFLAGS="--remap-path-prefix=$PWD=/attendant --remap-path-prefix=$registry=/cargo ${RUSTFLAGS:-}"
    export CFLAGS="-ffile-prefix-map=$PWD=/attendant -ffile-prefix-map=$registry=/cargo ${CFLAGS:-}"
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
    # a program for a device does not look for the bundle in this checkout
    export SOURCE_DATE_EPOCH ATTENDANT_SHIPPED=1
fi

# built ARGUMENT...: builds, and prints the path of the program, or of the tests
built() {
    # shellcheck disable=SC2086
    set -- "$@" ${ATTENDANT_CARGO:-}
    if [ -n "${ATTENDANT_TESTS:-}" ]; then
        # of both packages, so that what they depend on is one build
        cargo test --locked --no-run --lib --profile "$profile" --features "$features" --message-format json "$@" |
            sed -n "/\"name\":\"$(echo "$ATTENDANT_TESTS" | tr - _)\"/s/.*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -n 1
    else
        cargo build --locked --profile "$profile" --features "$features" "$@" >&2
        echo "$out/$folder/attendant"
    fi
}

need() { # need PACKAGE...: installs what dpkg does not have
    missing=
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok' || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        echo "missing packages; run as root: apt-get install$missing" >&2
        exit 1
    fi
    apt-get update -qq >&2 || true
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
}

if [ "$arch" = "$(dpkg --print-architecture)" ]; then
    need libasound2-dev libclang-dev pkg-config
    out=$target
    export BOARD="$board"
    built
    exit 0
fi

[ "$arch" = arm64 ] || { echo "cross-building is for arm64; build $arch on $arch" >&2; exit 2; }
if [ "$(id -u)" = 0 ] && ! dpkg --print-foreign-architectures | grep -qx arm64; then
    dpkg --add-architecture arm64
fi
need gcc-aarch64-linux-gnu libc6-dev-arm64-cross libasound2-dev:arm64 libclang-dev pkg-config
compiler=$(rustc --print sysroot)/bin/rustc
if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$triple" ]; then
    need rustc-web libstd-rust-web-dev:arm64
    compiler=/usr/bin/rustc
fi
# A directory of its own: another compiler would replace what the host's builds share.
export RUSTC="$compiler" BOARD="$board" CARGO_TARGET_DIR="$target/cross"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export PKG_CONFIG_ALLOW_CROSS=1 PKG_CONFIG_PATH=/usr/lib/aarch64-linux-gnu/pkgconfig
export BINDGEN_EXTRA_CLANG_ARGS_aarch64_unknown_linux_gnu="--target=aarch64-linux-gnu -I/usr/aarch64-linux-gnu/include"
out=$CARGO_TARGET_DIR/$triple
built --target "$triple"
