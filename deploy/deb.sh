#!/bin/sh
# Makes the Debian package with dpkg-deb alone.
#
#   deploy/deb.sh amd64|arm64 [BINARY]       without a binary it is built (deploy/build.sh)
#
# Prints the path of the package. Fails if it is larger than the bounds below. The demo recording stays out: a device has
# sources of its own, and the recording is four fifths of the bundle.
set -eu
cd "$(dirname "$0")/.."

readonly PACKAGE_KIB_MAX=8192 INSTALLED_KIB_MAX=25600

arch=$1
binary=${2:-$(sh deploy/build.sh "$arch")}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
out=${CARGO_TARGET_DIR:-target}/deb
root=$out/attendant_${version}_$arch

rm -rf "$root"
mkdir -p "$root/DEBIAN"
install -D -m 755 "$binary" "$root/usr/bin/attendant"
for file in models/kiosk/*; do
    case $file in
        *.mcap | */report.json) ;;
        *) install -D -m 644 "$file" "$root/usr/share/attendant/models/kiosk/$(basename "$file")" ;;
    esac
done
install -D -m 644 deploy/attendant.toml "$root/etc/attendant/attendant.toml"
install -D -m 644 deploy/systemd/attendant.service "$root/usr/lib/systemd/system/attendant.service"
install -D -m 644 deploy/systemd/attendant.sysusers "$root/usr/lib/sysusers.d/attendant.conf"
install -D -m 644 deploy/modules-load.conf "$root/usr/lib/modules-load.d/attendant.conf"
install -D -m 644 deploy/udev/60-attendant.rules "$root/usr/lib/udev/rules.d/60-attendant.rules"
install -D -m 644 README.md "$root/usr/share/doc/attendant/README.md"
install -D -m 644 SECURITY.md "$root/usr/share/doc/attendant/SECURITY.md"
install -D -m 644 LICENSE-MIT "$root/usr/share/doc/attendant/copyright"
triple=x86_64-unknown-linux-gnu
[ "$arch" != arm64 ] || triple=aarch64-unknown-linux-gnu
python3 deploy/sbom.py --features "${ATTENDANT_FEATURES-v4l,alsa,gpio,web,mqtt}" --target "$triple" |
    install -D -m 644 /dev/stdin "$root/usr/share/doc/attendant/sbom.cdx.json"
# what is in a pipe fails unseen
[ -s "$root/usr/share/doc/attendant/sbom.cdx.json" ] || { echo "the software bill of materials is empty" >&2; exit 1; }
cp deploy/debian/postinst deploy/debian/prerm deploy/debian/postrm "$root/DEBIAN/"
chmod 755 "$root/DEBIAN/postinst" "$root/DEBIAN/prerm" "$root/DEBIAN/postrm"
# dpkg asks before it replaces what an administrator has changed
echo /etc/attendant/attendant.toml >"$root/DEBIAN/conffiles"
installed=$(du -sk --apparent-size --exclude=DEBIAN "$root" | cut -f1)
sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" -e "s/@INSTALLED@/$installed/" deploy/debian/control >"$root/DEBIAN/control"
# the same bytes whenever it is made: times are those of the commit
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.lock)}
export SOURCE_DATE_EPOCH
find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group --threads-max=1 -Zxz -z9 --build "$root" "$out" >&2
package=$out/attendant_${version}_$arch.deb
packed=$(($(stat -c %s "$package") / 1024))
echo "$package: $packed KiB (at most $PACKAGE_KIB_MAX), installed $installed KiB (at most $INSTALLED_KIB_MAX)" >&2
[ "$packed" -le "$PACKAGE_KIB_MAX" ] || { echo "the package is too large" >&2; exit 1; }
[ "$installed" -le "$INSTALLED_KIB_MAX" ] || { echo "the installed files are too large" >&2; exit 1; }
echo "$package"
