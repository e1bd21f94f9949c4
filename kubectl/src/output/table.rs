//! Aligned columns, and the server's tables.

/// Columns as kubectl's tab writer aligns them: at least six wide, three spaces between, the last one as long as it is.
/// Widths are remembered, so that what is printed later (a watch) stays in line.
#[derive(Clone, Debug, Default)]
pub struct TabWriter {
    widths: Vec<usize>,
}

const MIN_WIDTH: usize = 6;
const PADDING: usize = 3;

impl TabWriter {
    /// Rows of cells as lines.
    pub fn lines(&mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            for (at, cell) in row.iter().enumerate().take(row.len().saturating_sub(1)) {
                if self.widths.len() <= at {
                    self.widths.push(MIN_WIDTH);
                }
                self.widths[at] = self.widths[at].max(cell.chars().count() + PADDING);
            }
        }
        let mut out = String::new();
        for row in rows {
            for (at, cell) in row.iter().enumerate() {
                out.push_str(cell);
                if at + 1 < row.len() {
                    (cell.chars().count()..self.widths[at]).for_each(|_| out.push(' '));
                }
            }
            out.push('\n');
        }
        out
    }
}
