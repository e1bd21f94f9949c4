//! The descriptions of types and fields, kept compressed and inflated only while an OpenAPI document is made.

use std::io::Read;

static COMPRESSED: &[u8] = include_bytes!("docs.gz");

/// Every description: a type's at [`super::TypeDef::doc`], its fields' (by name) right after it.
#[derive(Debug)]
pub struct Docs {
    text: String,
    lines: Vec<(u32, u32)>,
}

impl Docs {
    /// Inflates the descriptions (about 1 MiB, for as long as the caller keeps them).
    pub fn load() -> Self {
        let mut text = String::new();
        // The bytes are ours and part of the binary: failing to inflate them leaves descriptions empty, nothing else.
        let _ = flate2::read::GzDecoder::new(COMPRESSED).read_to_string(&mut text);
        let mut lines = Vec::new();
        let mut start = 0u32;
        for line in text.split_inclusive('\n') {
            let end = start + line.len() as u32;
            lines.push((start, end - 1));
            start = end;
        }
        Self { text, lines }
    }

    /// One description as a JSON string with its quotes; `""` where there is none.
    pub fn json(&self, index: u32) -> &str {
        let (start, end) = self.lines.get(index as usize).copied().unwrap_or_default();
        let text = &self.text[start as usize..end as usize];
        if text.is_empty() { "\"\"" } else { text }
    }

    /// One description.
    pub fn text(&self, index: u32) -> String {
        serde_json::from_str(self.json(index)).unwrap_or_default()
    }
}
