Board {
    name: "pi-zero-2w",
    description: "Raspberry Pi Zero 2 W",
    drivers: &["v4l", "alsa", "gpio"],
    drivers_required: &[],
    model: Model {
        bundle: "kiosk",
        variant: Variant::Int8,
    },
    cpu: Cpu {
        arch: Arch::Aarch64,
        cores: 4,
        inference_threads: 1,
    },
    memory: Memory {
        total_mb: 512,
        budget_mb: 40,
    },
    latency: Latency {
        decision_ms_max: 100,
        start_ms_max: 2000,
    },
    camera: Camera {
        device: "auto",
        formats: &[FrameFormat::Mjpeg, FrameFormat::Yuyv],
        width: 640,
        height: 480,
        rate_hz: 10,
        queue_len: 3,
        timeout_ms: 2000,
    },
    audio: Audio {
        device: "default",
        sample_rate_hz: 16000,
        block_ms: 20,
        queue_len: 64,
        timeout_ms: 1000,
    },
    text: Text {
        queue_len: 16,
    },
    sensor: Sensor {
        queue_len: 64,
    },
    events: Events {
        queue_len: 256,
    },
    budget: Budget {
        celsius_max: 80,
        celsius_back: 72,
        busy_percent_max: 85,
        shed: &[Kind::Image, Kind::Series, Kind::Audio],
    },
    gpio: &[
        Gpio { name: "button", label: "pinctrl-bcm2835", line: 22 },
        Gpio { name: "call_staff", label: "pinctrl-bcm2835", line: 17 },
        Gpio { name: "recording", label: "pinctrl-bcm2835", line: 27 },
    ],
}
