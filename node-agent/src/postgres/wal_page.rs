//! Records in the pages of WAL segments (PostgreSQL source, `xlog_internal.h` and `xlogrecord.h`;
//! the layout is the same from version 13 to 18, in the byte order of the machine).

use super::archive::segment_of;
use node_agent_wire::{Lsn, TimelineId};

/// Bytes before the records of a page; in the first page of a segment there are more.
const PAGE_HEADER: u64 = 24;
const SEGMENT_HEADER: u64 = 40;
/// Bytes of a record before its content.
const RECORD_HEADER: usize = 24;
/// Where the checksum of a record is.
const CRC: std::ops::Range<usize> = 20..24;

/// Sizes that a cluster is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Bytes of a segment.
    pub(super) segment: u64,
    /// Bytes of a page.
    pub(super) page: u64,
}

/// A piece of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its name in `pg_wal`.
    pub(super) file: String,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

impl Layout {
    /// The pieces that hold what is from `start` on, in order: the rest of a segment is followed by
    /// the next segment.
    pub(super) fn pieces(self, timeline: TimelineId, start: Lsn, bytes: u64) -> Vec<Piece> {
        let (segment, mut at, mut left) = (self.segment.max(1), start.0, bytes);
        let mut pieces = Vec::new();
        while left > 0 {
            let offset = at % segment;
            let bytes = left.min(segment - offset);
            let file = segment_of(timeline, Lsn(at), segment);
            pieces.push(Piece { file, offset, bytes });
            (at, left) = (at + bytes, left - bytes);
        }
        pieces
    }

    /// The beginning of the page that a position is in.
    pub(super) fn page_of(self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0 - lsn.0 % self.page.max(1))
    }

    fn header(self, page: u64) -> u64 {
        if page.is_multiple_of(self.segment.max(1)) { SEGMENT_HEADER } else { PAGE_HEADER }
    }

    /// The whole record that begins at `at`, and where it ends; `bytes` are the WAL from the
    /// beginning of that page on. `None` when there is none, or not all of it.
    pub(super) fn record(self, bytes: &[u8], at: Lsn) -> Option<(Vec<u8>, Lsn)> {
        let begins = self.page_of(at).0;
        let mut reader = Reader { layout: self, bytes, begins, at: at.0, page: None };
        let mut record = reader.take(RECORD_HEADER)?;
        let length = u32::from_ne_bytes(record.get(0..4)?.try_into().ok()?);
        let length = usize::try_from(length).ok().filter(|l| *l >= RECORD_HEADER)?;
        if u64::try_from(length).ok()? > self.page {
            return None;
        }
        record.extend(reader.take(length - RECORD_HEADER)?);
        let told = u32::from_ne_bytes(record.get(CRC)?.try_into().ok()?);
        let content = crc(u32::MAX, record.get(RECORD_HEADER..)?);
        let whole = told == !crc(content, record.get(..CRC.start)?);
        whole.then_some((record, Lsn(reader.at)))
    }
}

/// Reads on over the headers of pages.
struct Reader<'a> {
    layout: Layout,
    bytes: &'a [u8],
    /// The position of the first byte.
    begins: u64,
    at: u64,
    /// The last page whose header was looked at.
    page: Option<u64>,
}

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            let page = self.layout.page_of(Lsn(self.at)).0;
            if self.page != Some(page) {
                // A recycled file holds pages of another place.
                let header = usize::try_from(page - self.begins).ok()?;
                let told = self.bytes.get(header + 8..header + 16)?;
                if u64::from_ne_bytes(told.try_into().ok()?) != page {
                    return None;
                }
                self.page = Some(page);
                self.at = self.at.max(page + self.layout.header(page));
            }
            let from = usize::try_from(self.at - self.begins).ok()?;
            let room = usize::try_from(page + self.layout.page - self.at).ok()?;
            let part = room.min(count - taken.len());
            taken.extend_from_slice(self.bytes.get(from..from + part)?);
            self.at += u64::try_from(part).ok()?;
        }
        Some(taken)
    }
}

/// CRC-32C, bit by bit: records are short.
fn crc(start: u32, bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 };
    bytes.iter().fold(start, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// And back; `None` for anything else.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout { segment: 1024, page: 256 };

    /// A record of this length, with its checksum.
    fn record(length: usize) -> Vec<u8> {
        let mut record: Vec<u8> =
            (0..length).map(|at| u8::try_from(at % 251).unwrap_or(0)).collect();
        record[..4].copy_from_slice(&u32::try_from(length).expect("short").to_ne_bytes());
        let sum = !crc(crc(u32::MAX, &record[24..]), &record[..20]);
        record[20..24].copy_from_slice(&sum.to_ne_bytes());
        record
    }

    /// Two pages from `begins` on with a record at `at`.
    fn pages(begins: u64, at: u64, record: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        for page in [begins, begins + 256] {
            let header = usize::try_from(page - begins).expect("small");
            bytes[header + 8..header + 16].copy_from_slice(&page.to_ne_bytes());
        }
        let mut at = at;
        for byte in record {
            let header = if at.is_multiple_of(1024) { 40 } else { 24 };
            at += if at.is_multiple_of(256) { header } else { 0 };
            bytes[usize::try_from(at - begins).expect("small")] = *byte;
            at += 1;
        }
        bytes
    }

    #[test]
    fn a_record_is_read_over_the_headers() {
        for (begins, at, length, end) in
            [(512, 600, 46, 646), (512, 760, 46, 830), (768, 768, 46, 838), (1024, 1024, 46, 1110)]
        {
            let record = record(length);
            let bytes = pages(begins, at, &record);
            assert_eq!(LAYOUT.record(&bytes, Lsn(at)), Some((record, Lsn(end))), "{at}");
        }
        // Over the end of a segment.
        let record = record(46);
        let bytes = pages(768, 1016, &record);
        assert_eq!(LAYOUT.record(&bytes, Lsn(1016)), Some((record, Lsn(1102))));
    }

    #[test]
    fn what_is_not_whole_is_no_record() {
        let good = pages(512, 600, &record(46));
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            LAYOUT.record(&bytes, Lsn(600))
        };
        let length = usize::from(good[88]);
        assert!(changed(88, u8::try_from(length).expect("short")).is_some());
        assert_eq!(changed(130, 0), None, "another content");
        assert_eq!(changed(88, 0), None, "too short");
        assert_eq!(changed(8, 1), None, "a page of another place");
        assert_eq!(LAYOUT.record(&good[..120], Lsn(600)), None, "cut off");
        assert_eq!(LAYOUT.record(&[0; 512], Lsn(600)), None, "nothing was written");
    }

    #[test]
    fn the_checksum_is_crc_32c() {
        assert_eq!(!crc(u32::MAX, b"123456789"), 0xE306_9283);
    }

    #[test]
    fn pieces_go_on_in_the_next_file() {
        let piece = |file: &str, offset, bytes| Piece { file: file.to_owned(), offset, bytes };
        let mb = Layout { segment: 16 << 20, page: 8192 };
        assert_eq!(
            mb.pieces(TimelineId(2), Lsn(0x0400_0000 - 8192), 16384),
            [
                piece("000000020000000000000003", (16 << 20) - 8192, 8192),
                piece("000000020000000000000004", 0, 8192),
            ]
        );
        assert_eq!(unhex(&hex(&[0, 171, 255])), Some(vec![0, 171, 255]));
        assert_eq!(unhex("0g"), None);
    }
}
