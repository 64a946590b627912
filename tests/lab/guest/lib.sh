# What the tests share; sourced in the guest.
OUT=/dev/video1 CAMERA=/dev/video0
now_ms() {
    read -r t _ </proc/uptime
    # hundredths of a second, with a leading 1 so that 08 is no octal number
    echo "$((${t%.*} * 1000 + 1${t#*.}0 - 1000))"
}
# Into the journal that the service writes to.
mark() { echo "$*" | systemd-cat -t lab; }
say() { echo "[$(now_ms)] $*"; }

# The package, its service stopped, and a camera that makes its pictures itself.
install_alone() {
    dpkg -i /share/attendant.deb 2>&1 | tail -1
    systemctl stop attendant
    modprobe -r vivid
    modprobe vivid n_devs=1 node_types=0x1 num_inputs=1 input_types=0x0
    udevadm settle
    settings /dev/video0
    systemctl reset-failed attendant
}

# The two ends of the loop need the same timings and format.
join() {
    for node in /dev/video*; do
        if v4l2-ctl -d "$node" --info | grep -q 'Video Output$'; then OUT=$node; else CAMERA=$node; fi
    done
    v4l2-ctl -d "$OUT" --set-dv-bt-timings index=0 >/dev/null
    v4l2-ctl -d "$CAMERA" --set-dv-bt-timings index=0 >/dev/null
    v4l2-ctl -d "$OUT" --set-fmt-video-out=width=640,height=480,pixelformat=YUYV >/dev/null
    v4l2-ctl -d "$CAMERA" --set-fmt-video=width=640,height=480,pixelformat=YUYV >/dev/null
    v4l2-ctl -d "$OUT" --set-ctrl=loop_video=1 2>/dev/null || v4l2-ctl -d "$CAMERA" --set-ctrl=loop_video=1
    v4l2-ctl -d "$CAMERA" --set-ctrl=osd_text_mode=2
    say "camera $CAMERA, its picture comes from $OUT"
}

# settings CAMERA-DEVICE: the device's configuration as the administrator would write it
settings() {
    cat >/etc/attendant/attendant.toml <<CONFIG
[source.camera]
kind = "v4l2"
device = "$1"
[source.mic]
kind = "alsa"
device = "hw:CARD=Loop,DEV=1"
[[sink]]
kind = "jsonl"
CONFIG
}
