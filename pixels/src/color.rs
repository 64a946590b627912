//! What cameras send as colours the eye sees: ITU-R BT.601, values from 0 to 255.

/// Luminance of full-range R G B, ITU-R BT.601-7, 2.5.1.
#[must_use]
#[inline]
pub fn luminance(r: f32, g: f32, b: f32) -> f32 {
    0.299 * r + 0.587 * g + 0.114 * b
}

/// Limited-range luma (16 to 235) as 0 to 255.
#[must_use]
#[inline]
pub fn full_range(y: f32) -> f32 {
    ((y - 16.0) * (255.0 / 219.0)).clamp(0.0, 255.0)
}

/// Full-range R G B of limited-range Y Cb Cr, ITU-R BT.601-7, 2.5.
#[must_use]
#[inline]
pub fn rgb_of_yuv(y: f32, cb: f32, cr: f32) -> [f32; 3] {
    let y = (y - 16.0) * (255.0 / 219.0);
    let (cb, cr) = ((cb - 128.0) * (255.0 / 224.0), (cr - 128.0) * (255.0 / 224.0));
    let (kr, kb) = (0.299, 0.114);
    let kg = 1.0 - kr - kb;
    let r = y + 2.0 * (1.0 - kr) * cr;
    let b = y + 2.0 * (1.0 - kb) * cb;
    let g = y - (2.0 * kr * (1.0 - kr) * cr + 2.0 * kb * (1.0 - kb) * cb) / kg;
    [r, g, b].map(|v| v.clamp(0.0, 255.0))
}
