//! Columns of text as Go's `text/tabwriter` makes them: a column is a run of lines that all have a tab behind their nth cell.

/// How wide columns are, in characters.
#[derive(Clone, Debug)]
pub struct Tabs {
    /// The least.
    pub least: usize,
    /// Between columns.
    pub padding: usize,
    /// The greatest widths that columns have had, where later runs are to be as wide.
    pub remembered: Option<Vec<usize>>,
}

impl Tabs {
    /// Text with its cells aligned.
    pub fn align(&mut self, text: &str) -> String {
        let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split(['\t', '\x0b']).collect()).collect();
        let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len() - 1]).collect();
        self.column(&lines, &mut widths, 0, 0, lines.len());
        let mut out = String::with_capacity(text.len() * 2);
        for (n, (cells, widths)) in lines.iter().zip(&widths).enumerate() {
            if n > 0 {
                out.push('\n');
            }
            for (index, cell) in cells.iter().enumerate() {
                out.push_str(cell);
                let width = widths.get(index).copied().unwrap_or(0);
                out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
            }
        }
        out
    }

    /// Sets the widths of the `index`th column's runs among lines `from..to`, and of the columns right of it within each run.
    fn column(&mut self, lines: &[Vec<&str>], widths: &mut [Vec<usize>], index: usize, from: usize, to: usize) {
        let mut at = from;
        while at < to {
            let run = lines[at..to].iter().take_while(|cells| cells.len() > index + 1).count();
            if run == 0 {
                at += 1;
                continue;
            }
            let widest = lines[at..at + run].iter().map(|cells| cells[index].chars().count()).max().unwrap_or(0);
            let mut width = self.least.max(widest + self.padding);
            if let Some(remembered) = &mut self.remembered {
                remembered.resize(remembered.len().max(index + 1), 0);
                width = width.max(remembered[index]);
                remembered[index] = width;
            }
            widths[at..at + run].iter_mut().for_each(|line| line[index] = width);
            self.column(lines, widths, index + 1, at, at + run);
            at += run;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_runs_of_lines() {
        let text = "Name:\tx\nNamespace:\ty\nLabels:\n  a\tb\tc\n  long\t\td\n\tz\n";
        let want = "Name:       x\nNamespace:  y\nLabels:\n  a     b  c\n  long     d\n        z\n";
        assert_eq!(Tabs { least: 0, padding: 2, remembered: None }.align(text), want);
    }

    #[test]
    fn later_runs_are_as_wide_as_earlier_ones() {
        let mut tabs = Tabs { least: 6, padding: 3, remembered: Some(Vec::new()) };
        assert_eq!(tabs.align("NAME\tA\nlonger\tx\ny\nz]\tq\n"), "NAME     A\nlonger   x\ny\nz]       q\n");
    }
}
