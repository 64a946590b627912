//! Writes tensors of one shape, one after the other, into a NumPy `.npy` file (format version 1.0).

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use attendant::signal::{Tensor, TensorData};

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
}
