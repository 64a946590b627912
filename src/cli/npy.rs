//! NumPy `.npy` files: writes tensors of one shape, one after the other (format version 1.0), and reads one.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use attendant::signal::{MAX_RANK, Tensor, TensorData};

use super::Failure;

/// Length of the whole header: room for any row count, so that it can be rewritten at the end.
const HEADER_LEN: usize = 192;

/// A `.npy` file that grows by rows; `finish` writes the row count.
pub struct NpyWriter {
    file: BufWriter<File>,
    descr: &'static str,
    row_shape: Vec<usize>,
    rows: usize,
    /// The file holds one tensor in its own shape.
    whole: bool,
    bytes: Vec<u8>,
}

impl NpyWriter {
    /// Creates `path` for rows shaped like `row`, whose leading dimension of 1 is the one that grows.
    pub fn create(path: &Path, row: &Tensor) -> io::Result<Self> {
        let row_shape = match row.shape.as_slice() {
            [1, rest @ ..] => rest.to_vec(),
            all => all.to_vec(),
        };
        Self::open(path, row, row_shape, false)
    }

    /// Creates `path` for one tensor, in its own shape.
    pub fn create_whole(path: &Path, tensor: &Tensor) -> io::Result<Self> {
        Self::open(path, tensor, tensor.shape.to_vec(), true)
    }

    fn open(path: &Path, row: &Tensor, row_shape: Vec<usize>, whole: bool) -> io::Result<Self> {
        let descr = match row.data {
            TensorData::F32(_) => "<f4",
            TensorData::I64(_) => "<i8",
            TensorData::Bool(_) => "|b1",
        };
        let file = BufWriter::new(File::create(path)?);
        let mut writer = NpyWriter { file, descr, row_shape, rows: 0, whole, bytes: Vec::new() };
        writer.write_header()?;
        Ok(writer)
    }

    /// Appends one row.
    pub fn push(&mut self, row: &Tensor) -> io::Result<()> {
        self.bytes.clear();
        match &row.data {
            TensorData::F32(v) => self.bytes.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            TensorData::I64(v) => self.bytes.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            TensorData::Bool(v) => self.bytes.extend(v.iter().map(|x| u8::from(*x))),
        }
        self.rows += 1;
        self.file.write_all(&self.bytes)
    }

    /// Completes the file and says how many rows it has.
    pub fn finish(mut self) -> io::Result<usize> {
        self.file.seek(SeekFrom::Start(0))?;
        self.write_header()?;
        self.file.flush()?;
        Ok(self.rows)
    }

    fn write_header(&mut self) -> io::Result<()> {
        let mut dims = if self.whole { String::new() } else { format!("{},", self.rows) };
        for d in &self.row_shape {
            dims.push_str(&format!(" {d},"));
        }
        let dict = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({dims}), }}", self.descr);
        let mut header = b"\x93NUMPY\x01\x00".to_vec();
        header.extend_from_slice(&u16::try_from(HEADER_LEN - 10).expect("a constant below 65536").to_le_bytes());
        header.extend_from_slice(dict.as_bytes());
        header.resize(HEADER_LEN - 1, b' ');
        header.push(b'\n');
        self.file.write_all(&header)
    }
}

/// Reads a tensor of f32, i64 or bool; f64 and i32 are converted.
///
/// # Errors
/// The file cannot be read, is no `.npy` file in C order, or holds other elements.
pub fn read_npy(path: &Path) -> Result<Tensor, Failure> {
    let bytes = std::fs::read(path).map_err(|e| Failure::Input(format!("{}: {e}", path.display())))?;
    parse_npy(&bytes).map_err(|reason| Failure::Input(format!("{}: {reason}", path.display())))
}

fn parse_npy(bytes: &[u8]) -> Result<Tensor, String> {
    let is_npy = bytes.len() > 12 && bytes.starts_with(b"\x93NUMPY");
    let (len, from) = match bytes.get(6) {
        Some(1) if is_npy => (usize::from(u16::from_le_bytes([bytes[8], bytes[9]])), 10),
        Some(2 | 3) if is_npy => (u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize, 12),
        _ => return Err("not a .npy file; save it with numpy.save".into()),
    };
    let (Some(header), Some(data)) = (bytes.get(from..from + len), bytes.get(from + len..)) else {
        return Err("the header is cut off".into());
    };
    let header = String::from_utf8_lossy(header);
    let after = |key: &str| header.split_once(key).map(|(_, rest)| rest.trim_start());
    if after("'fortran_order':").is_none_or(|rest| !rest.starts_with("False")) {
        return Err("not in C order; save it with numpy.ascontiguousarray".into());
    }
    let descr = after("'descr':").and_then(|rest| rest.split('\'').nth(1)).unwrap_or("?").to_string();
    let shape = after("'shape':").and_then(|rest| rest.strip_prefix('(')?.split(')').next()).unwrap_or("?");
    let shape = shape.split(',').map(str::trim).filter(|d| !d.is_empty()).map(str::parse);
    let shape = shape.collect::<Result<Vec<usize>, _>>().map_err(|_| "the header has no shape".to_string())?;
    if shape.len() > MAX_RANK {
        return Err(format!("{} dimensions, at most {MAX_RANK} are supported", shape.len()));
    }
    let volume = shape.iter().try_fold(1usize, |v, d| v.checked_mul(*d)).unwrap_or(usize::MAX);
    let width = match descr.as_str() {
        "|b1" => 1,
        "<f4" | "<i4" => 4,
        "<f8" | "<i8" => 8,
        other => return Err(format!("elements are {other}, expected <f4, <f8, <i4, <i8 or |b1")),
    };
    if Some(data.len()) != volume.checked_mul(width) {
        return Err(format!("{} bytes of data for {shape:?} of {descr}", data.len()));
    }
    let (fours, eights) = (data.as_chunks::<4>().0, data.as_chunks::<8>().0);
    let (mut tensor, data) = match descr.as_str() {
        "<f4" => (Tensor::zeros_f32(&shape), TensorData::F32(fours.iter().map(|b| f32::from_le_bytes(*b)).collect())),
        "<f8" => {
            let values = eights.iter().map(|b| f64::from_le_bytes(*b) as f32);
            (Tensor::zeros_f32(&shape), TensorData::F32(values.collect()))
        }
        "<i4" => {
            let values = fours.iter().map(|b| i64::from(i32::from_le_bytes(*b)));
            (Tensor::zeros_i64(&shape), TensorData::I64(values.collect()))
        }
        "<i8" => (Tensor::zeros_i64(&shape), TensorData::I64(eights.iter().map(|b| i64::from_le_bytes(*b)).collect())),
        _ => (Tensor::zeros_bool(&shape), TensorData::Bool(data.iter().map(|b| *b != 0).collect())),
    };
    tensor.data = data;
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_says_how_many_rows_there_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npy");
        let row = Tensor::zeros_f32(&[1, 2, 3]);
        let mut writer = NpyWriter::create(&path, &row).unwrap();
        writer.push(&row).unwrap();
        writer.push(&row).unwrap();
        assert_eq!(writer.finish().unwrap(), 2);
        let bytes = std::fs::read(&path).unwrap();
        let header = String::from_utf8_lossy(&bytes[10..HEADER_LEN]);
        assert!(header.contains("'descr': '<f4'") && header.contains("'shape': (2, 2, 3,)"), "{header}");
        assert_eq!(bytes.len(), HEADER_LEN + 2 * 6 * 4);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npy");
        let mut tensor = Tensor::zeros_f32(&[1, 2, 3]);
        tensor.as_f32_mut().unwrap().copy_from_slice(&[1.0, -2.0, 3.5, 0.0, 1e-9, 7.0]);
        let mut writer = NpyWriter::create_whole(&path, &tensor).unwrap();
        writer.push(&tensor).unwrap();
        writer.finish().unwrap();
        assert_eq!(read_npy(&path).unwrap(), tensor);
        let bytes = std::fs::read(&path).unwrap();
        for len in 0..bytes.len() {
            assert!(parse_npy(&bytes[..len]).is_err(), "{len} bytes");
        }
    }
}
