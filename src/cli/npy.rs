//! NumPy's `.npy` files (format version 1.0): writes tensors of one shape one after the other, reads one tensor.

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
    bytes: Vec<u8>,
}

impl NpyWriter {
    /// Creates `path` for rows shaped like `row`, whose leading dimension of 1 is the one that grows.
    pub fn create(path: &Path, row: &Tensor) -> io::Result<Self> {
        let descr = match row.data {
            TensorData::F32(_) => "<f4",
            TensorData::I64(_) => "<i8",
            TensorData::Bool(_) => "|b1",
        };
        let row_shape = match row.shape.as_slice() {
            [1, rest @ ..] => rest.to_vec(),
            all => all.to_vec(),
        };
        let mut writer =
            NpyWriter { file: BufWriter::new(File::create(path)?), descr, row_shape, rows: 0, bytes: Vec::new() };
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
        let mut dims = format!("{},", self.rows);
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

/// Reads the tensor in `path`: little-endian f32 or i64, or bool, in C order.
pub fn read(path: &Path) -> Result<Tensor, Failure> {
    let bytes = std::fs::read(path).map_err(|e| Failure::Input(format!("{}: {e}", path.display())))?;
    let expected = "expected a .npy file of <f4, <i8 or |b1 in C order, of at most 6 dimensions, whole";
    parse(&bytes).ok_or_else(|| Failure::Input(format!("{}: {} bytes, {expected}", path.display(), bytes.len())))
}

fn parse(bytes: &[u8]) -> Option<Tensor> {
    let (len, rest) = bytes.strip_prefix(b"\x93NUMPY\x01\x00")?.split_first_chunk()?;
    let (header, data) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
    let header = std::str::from_utf8(header).ok()?;
    if !header.contains("'fortran_order': False") {
        return None;
    }
    let dims = header.split_once("'shape': (")?.1.split_once(')')?.0.split(',').map(str::trim);
    let shape = dims.filter(|d| !d.is_empty()).map(|d| d.parse().ok()).collect::<Option<Vec<usize>>>()?;
    let elements = shape.iter().try_fold(1_usize, |product, dim| product.checked_mul(*dim))?;
    let (bytes_each, is) = match header.split_once("'descr': '")?.1.split_once('\'')?.0 {
        "<f4" => (4, 'f'),
        "<i8" => (8, 'i'),
        "|b1" => (1, 'b'),
        _ => return None,
    };
    if shape.len() > MAX_RANK || elements.checked_mul(bytes_each)? != data.len() {
        return None;
    }
    let data = match is {
        'f' => TensorData::F32(data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        'i' => TensorData::I64(data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
        _ => TensorData::Bool(data.iter().map(|b| *b != 0).collect()),
    };
    Some(Tensor { shape: shape.into_iter().collect(), data })
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
        assert_eq!(read(&path).unwrap(), Tensor::zeros_f32(&[2, 2, 3]));
    }

    #[test]
    fn what_is_no_tensor_is_refused() {
        let file = |descr: &str, order: &str, shape: &str, data: usize| {
            let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({shape}), }}\n");
            let len = (header.len() as u16).to_le_bytes();
            [b"\x93NUMPY\x01\x00", &len[..], header.as_bytes(), &vec![1; data]].concat()
        };
        assert_eq!(parse(&file("|b1", "False", "2,", 2)).unwrap().data, TensorData::Bool(vec![true; 2]));
        assert_eq!(parse(&file("<i8", "False", "", 8)).unwrap().shape.len(), 0);
        for (descr, order, shape, data) in [
            ("<f8", "False", "1,", 8),
            ("<f4", "True", "1,", 4),
            ("<f4", "False", "2,", 4),
            ("<f4", "False", "-1,", 4),
            ("<f4", "False", "1, 1, 1, 1, 1, 1, 1", 4),
            ("<f4", "False", "9223372036854775807, 9223372036854775807", 4),
        ] {
            assert_eq!(parse(&file(descr, order, shape, data)), None, "{descr} {order} {shape}");
        }
        let whole = file("<f4", "False", "1,", 4);
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), None);
        }
    }
}
