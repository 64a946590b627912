#[path = "cli/npy.rs"] mod npy;
use attendant::{config::{from_toml, manifest::*}, preprocess::*, signal::*, time::Micros};
use std::path::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let get = |k: &str| a.iter().position(|x| x == k).map(|i| a[i + 1].clone());
    let dir = get("--bundle").unwrap_or("models/kiosk".into());
    let enc = get("--encoder").unwrap();
    let out = PathBuf::from(get("--out").unwrap());
    let input = PathBuf::from(a.iter().skip(2).enumerate().filter(|(i, x)| !x.starts_with("--") && !a[i + 1].starts_with("--")).map(|(_, x)| x.clone()).last().unwrap());
    let mpath = Path::new(&dir).join("bundle.toml");
    let m: Manifest = from_toml(&mpath, &std::fs::read_to_string(&mpath).unwrap()).unwrap();
    let spec = m.encoder.iter().find(|e| e.name == enc).unwrap();
    let mut w: Option<npy::NpyWriter> = None;
    let mut push = |t: &Tensor| { if w.is_none() { w = Some(npy::NpyWriter::create(&out, t).unwrap()); } w.as_mut().unwrap().push(t).unwrap(); };
    if let Some(i) = &spec.image {
        let mut p = ImagePreprocessor::new(i).unwrap();
        let mut t = Tensor::zeros_f32(p.shape());
        let mut d = y4m::decode(std::io::BufReader::with_capacity(1 << 20, std::fs::File::open(&input).unwrap())).unwrap();
        let (wd, h) = (d.get_width(), d.get_height());
        let mut f = Frame::default();
        while let Ok(fr) = d.read_frame() {
            f.width = wd as u32; f.height = h as u32; f.stride = wd as u32; f.format = PixelFormat::Gray;
            f.data.clear(); f.data.extend_from_slice(&fr.get_y_plane()[..wd * h]);
            p.run(&f, &mut t).unwrap();
            push(&t);
        }
    } else if let Some(s) = &spec.audio {
        let mut s = s.clone();
        if let Some(h) = get("--hop-ms") { s.hop_ms = h.parse().unwrap(); }
        let mut p = AudioPreprocessor::new(&s).unwrap();
        let mut t = Tensor::zeros_f32(p.shape());
        let mut r = hound::WavReader::open(&input).unwrap();
        let rate = r.spec().sample_rate;
        let all: Vec<f32> = r.samples::<i16>().map(|x| f32::from(x.unwrap()) / 32768.0).collect();
        let n = rate as usize / 10;
        for (k, c) in all.chunks(n).enumerate() {
            let b = AudioBlock { t: Micros((k * n) as u64 * 1_000_000 / rate as u64), first: SampleIdx((k * n) as u64), gap_samples: 0, sample_rate_hz: rate, data: c.to_vec() };
            p.push(&b).unwrap();
            while p.next_window(&mut t).unwrap().is_some() { push(&t); }
        }
    } else { panic!("text: not in this interim binary") }
    println!("{} rows", w.unwrap().finish().unwrap());
}
