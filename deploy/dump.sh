#!/bin/sh
# What `attendant doctor --root` needs of a device, as a copy that can be sent: deploy/dump.sh DIR, then tar it.
# As root it is whole: who holds which device, and the nodes of /dev with owner and mode. Reads only; takes no secret: of /etc no more
# than passwd, group, the unit and attendant.toml (look whether that names something that should not leave the house).
set -u
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
out=$1
mkdir -p "$out/attendant-doctor" || exit 1

# copy FILE...: text of the kernel's and the system's files, which have no size to go by
copy() {
    for file in "$@"; do
        if [ -f "$file" ] && [ -r "$file" ]; then
            mkdir -p "$out${file%/*}"
            head -c 1048576 "$file" >"$out$file" 2>/dev/null
        fi
    done
}

copy /proc/mounts /proc/meminfo /proc/device-tree/model /etc/passwd /etc/group /etc/attendant/attendant.toml
copy /sys/devices/system/clocksource/clocksource0/current_clocksource /run/systemd/timesync/synchronized
copy /sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count
copy /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor /sys/devices/system/cpu/cpu0/cpufreq/scaling_driver
copy /sys/class/thermal/thermal_zone*/type /sys/class/thermal/thermal_zone*/temp /sys/class/thermal/thermal_zone*/trip_point_*
copy /sys/class/hwmon/hwmon*/name /sys/class/hwmon/hwmon*/in*_lcrit_alarm /sys/class/hwmon/hwmon*/oc*_event_cnt
copy /sys/devices/platform/soc*/soc*:firmware/get_throttled
copy /proc/asound/card*/id /proc/asound/card*/stream* /proc/asound/card*/pcm*c/info /proc/asound/card*/pcm*c/sub0/status

# units, their drop-ins, and whether they are enabled
for dir in /etc/systemd/system /run/systemd/system /usr/local/lib/systemd/system /usr/lib/systemd/system /lib/systemd/system; do
    copy "$dir/attendant.service" "$dir"/attendant.service.d/*.conf
done
for link in /etc/systemd/system/*.wants/attendant.service; do
    [ -L "$link" ] && mkdir -p "$out${link%/*}" && : >"$out$link"
done
[ -d /run/systemd/system ] && mkdir -p "$out/run/systemd/system"
[ -x /usr/bin/attendant ] && mkdir -p "$out/usr/bin" && : >"$out/usr/bin/attendant"
[ -d /var/lib/attendant ] && mkdir -p "$out/var/lib" && cp -a --attributes-only /var/lib/attendant "$out/var/lib/" 2>/dev/null

# nodes of devices: owner and mode count, and only root can make them again
for node in /dev/video* /dev/snd/pcm* /dev/gpiochip* /dev/i2c-*; do
    [ -e "$node" ] && mkdir -p "$out${node%/*}" && cp -a "$node" "$out$node" 2>/dev/null
done
[ -d /dev/v4l ] && mkdir -p "$out/dev" && cp -a /dev/v4l "$out/dev/"

# cameras: their names, and of those on USB the descriptors, which have the formats
for class in /sys/class/video4linux/video*; do
    [ -e "$class" ] || continue
    copy "$class/name" "$class/index"
    device=$(readlink -f "$class/device") || continue
    if [ -r "${device%/*}/descriptors" ]; then
        mkdir -p "$out$device"
        cat "${device%/*}/descriptors" >"$out${device%/*}/descriptors"
        # relative, so that the copy can stand anywhere
        ln -sfn "../../../..$device" "$out$class/device"
    fi
done

# who has devices open, and who sets the clock
for process in /proc/[0-9]*; do
    comm=$(cat "$process/comm" 2>/dev/null) || continue
    for fd in "$process"/fd/*; do
        target=$(readlink "$fd" 2>/dev/null) || continue
        case $target in
            /dev/video* | /dev/snd/*) mkdir -p "$out$process/fd" && ln -sfn "$target" "$out$fd" ;;
        esac
    done
    case $comm in systemd-timesyn | chronyd | ntpd | openntpd) mkdir -p "$out$process/fd" ;; esac
    [ -d "$out$process" ] && echo "$comm" >"$out$process/comm"
done

# what only a program can tell; an answer that is not there is said to be missing
df -kP >"$out/attendant-doctor/df" 2>/dev/null || rm -f "$out/attendant-doctor/df"
timedatectl show --property=NTPSynchronized --value >"$out/attendant-doctor/timedatectl" 2>/dev/null || rm -f "$out/attendant-doctor/timedatectl"
systemctl show attendant.service >"$out/attendant-doctor/systemctl" 2>/dev/null || rm -f "$out/attendant-doctor/systemctl"
echo "$out: tar -C $out -czf attendant-dump.tar.gz ."
