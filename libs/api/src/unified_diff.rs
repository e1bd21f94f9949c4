//! The difference of two texts in the unified form, line by line, as Python's `difflib` finds it: upstream's `util/diff` uses its
//! translation to Go, and other algorithms would pair other lines.

use std::{collections::HashMap, ops::Range};

/// Lines around each change.
const CONTEXT: usize = 3;

/// `old` and `new` in hunks (`@@ -1,7 +1,7 @@`) without a heading; nothing if they are equal.
pub fn unified_diff(old: &str, new: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (old.split('\n').collect(), new.split('\n').collect());
    let mut out = String::new();
    for hunk in hunks(steps(&old, &new)) {
        let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else { continue };
        let (a, b) = (first.old.start..last.old.end, first.new.start..last.new.end);
        out.push_str(&format!("@@ -{} +{} @@\n", span(&a), span(&b)));
        for step in hunk {
            let mut push = |sign, lines: &[&str]| lines.iter().for_each(|line| out.push_str(&format!("{sign}{line}\n")));
            if step.equal {
                push(' ', &old[step.old]);
            } else {
                push('-', &old[step.old]);
                push('+', &new[step.new]);
            }
        }
    }
    out
}

/// Lines of both texts that are equal, or that stand for each other.
struct Step {
    equal: bool,
    old: Range<usize>,
    new: Range<usize>,
}

/// The lines of a hunk, counted from one; of no lines, the line before them.
fn span(lines: &Range<usize>) -> String {
    match lines.len() {
        0 => format!("{},0", lines.start),
        1 => (lines.start + 1).to_string(),
        n => format!("{},{n}", lines.start + 1),
    }
}

/// Changes that are close to each other, with what is around them.
fn hunks(steps: Vec<Step>) -> Vec<Vec<Step>> {
    let (mut hunks, mut hunk) = (Vec::new(), Vec::new());
    let last = steps.len().saturating_sub(1);
    for (n, step) in steps.into_iter().enumerate() {
        let kept = step.old.len().min(CONTEXT);
        if !step.equal || (0 < n && n < last && step.old.len() <= 2 * CONTEXT) {
            hunk.push(step);
            continue;
        }
        let Step { old, new, .. } = step;
        if n > 0 {
            hunk.push(Step { equal: true, old: old.start..old.start + kept, new: new.start..new.start + kept });
            hunks.push(std::mem::take(&mut hunk));
        }
        hunk = vec![Step { equal: true, old: old.end - kept..old.end, new: new.end - kept..new.end }];
    }
    hunks.push(hunk);
    hunks.retain(|hunk| hunk.iter().any(|step| !step.equal));
    hunks
}

fn steps(old: &[&str], new: &[&str]) -> Vec<Step> {
    let (mut steps, mut i, mut j) = (Vec::new(), 0, 0);
    for (a, b, size) in blocks(old, new) {
        steps.push(Step { equal: false, old: i..a, new: j..b });
        (i, j) = (a + size, b + size);
        steps.push(Step { equal: true, old: a..i, new: b..j });
    }
    steps.retain(|step| !step.old.is_empty() || !step.new.is_empty());
    steps
}

/// Runs of equal lines (where in `old`, where in `new`, how many), in order; the last is the end, with none.
fn blocks(old: &[&str], new: &[&str]) -> Vec<(usize, usize, usize)> {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    new.iter().enumerate().for_each(|(j, line)| places.entry(line).or_default().push(j));
    // Lines that occur all over a long text begin no run.
    if new.len() >= 200 {
        places.retain(|_, places| places.len() <= new.len() / 100 + 1);
    }
    let mut found = Vec::new();
    let mut ranges = vec![(0..old.len(), 0..new.len())];
    while let Some((a, b)) = ranges.pop() {
        let (i, j, size) = longest(old, new, &a, &b, &places);
        if size > 0 {
            found.push((i, j, size));
            ranges.extend([(a.start..i, b.start..j), (i + size..a.end, j + size..b.end)]);
        }
    }
    found.sort_unstable();
    let mut runs: Vec<(usize, usize, usize)> = Vec::new();
    for (i, j, size) in found {
        match runs.last_mut() {
            Some(last) if last.0 + last.2 == i && last.1 + last.2 == j => last.2 += size,
            _ => runs.push((i, j, size)),
        }
    }
    runs.push((old.len(), new.len(), 0));
    runs
}

/// The longest run within two ranges that holds a line which may begin one; the first of them.
fn longest(
    old: &[&str],
    new: &[&str],
    a: &Range<usize>,
    b: &Range<usize>,
    places: &HashMap<&str, Vec<usize>>,
) -> (usize, usize, usize) {
    let (mut i, mut j, mut size) = (a.start, b.start, 0);
    // How long the run is that ends with the line before, by where it ends in `new`.
    let mut ending: HashMap<usize, usize> = HashMap::new();
    for at in a.clone() {
        let mut now = HashMap::new();
        for place in places.get(old[at]).into_iter().flatten().copied().filter(|place| b.contains(place)) {
            let length = 1 + place.checked_sub(1).and_then(|before| ending.get(&before)).copied().unwrap_or(0);
            now.insert(place, length);
            if length > size {
                (i, j, size) = (at + 1 - length, place + 1 - length, length);
            }
        }
        ending = now;
    }
    while i > a.start && j > b.start && old[i - 1] == new[j - 1] {
        (i, j, size) = (i - 1, j - 1, size + 1);
    }
    while i + size < a.end && j + size < b.end && old[i + size] == new[j + size] {
        size += 1;
    }
    (i, j, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_far_from_a_change_is_left_out() {
        let old = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\nm";
        assert_eq!(unified_diff(old, old), "");
        let expected = "@@ -1,5 +1,4 @@\n a\n-b\n c\n d\n e\n@@ -10,4 +9,5 @@\n j\n k\n l\n+new\n m\n";
        assert_eq!(unified_diff(old, &old.replace("b\n", "").replace('m', "new\nm")), expected);
        assert_eq!(unified_diff("a", "b"), "@@ -1 +1 @@\n-a\n+b\n");
    }

    #[test]
    fn lines_are_paired_as_difflib_does() {
        // What Python's `difflib.unified_diff` prints: the first of the longest runs counts, not the fewest changes.
        let expected = "@@ -1,7 +1,6 @@\n+c\n+b\n a\n b\n+a\n c\n-a\n-b\n-b\n-a\n";
        assert_eq!(unified_diff("a\nb\nc\na\nb\nb\na", "c\nb\na\nb\na\nc"), expected);
        // In a long text lines that occur often begin no run: here nothing is left that could.
        let many = |n: usize| vec!["}"; n].join("\n");
        assert!(unified_diff(&many(250), &many(251)).starts_with("@@ -248,3 +248,4 @@\n"));
        assert!(unified_diff(&format!("x\n{}", many(250)), &many(251)).starts_with("@@ -1,251 +1,251 @@\n-x\n-}\n"));
    }
}
