//! Images that nobody uses, when their disk fills up: what to remove is a plain function.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use cri::v1;
use jiff::{SignedDuration, Timestamp};

/// When to remove images, and until when.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Percent of the disk in use from which on images are removed.
    pub high: u8,
    /// Percent to get down to.
    pub low: u8,
    /// Younger ones stay.
    pub minimum_age: Duration,
    /// Older unused ones go, whatever is free; zero is never.
    pub maximum_age: Duration,
}

/// An image as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    first: Timestamp,
    used: Option<Timestamp>,
}

/// What is known of images from one look to the next.
#[derive(Clone, Debug, Default)]
pub struct Images {
    seen: HashMap<String, Seen>,
    /// The first look. What was there then has been there for nobody knows how long.
    began: Option<Timestamp>,
}

impl Images {
    /// Notes which images there are and which are in use.
    pub fn note(&mut self, images: &[v1::Image], used: &HashSet<String>, now: Timestamp) {
        self.began.get_or_insert(now);
        self.seen.retain(|id, _| images.iter().any(|image| image.id == *id));
        for image in images {
            let seen = self.seen.entry(image.id.clone()).or_insert(Seen { first: now, used: None });
            if is_used(image, used) {
                seen.used = Some(now);
            }
        }
    }

    /// The unused images to remove, the one that was unused longest first, until `wanted` bytes are free, and what too old
    /// ones there are.
    pub fn victims(
        &self,
        images: &[v1::Image],
        used: &HashSet<String>,
        policy: &Policy,
        wanted: u64,
        now: Timestamp,
    ) -> Vec<(String, u64)> {
        let age = |since: Timestamp| Duration::try_from(now.duration_since(since)).unwrap_or_default();
        let mut idle: Vec<(&v1::Image, Seen)> = images
            .iter()
            .filter(|image| !image.pinned && !is_used(image, used))
            .filter_map(|image| Some((image, *self.seen.get(&image.id)?)))
            .filter(|(_, seen)| Some(seen.first) == self.began || age(seen.first) >= policy.minimum_age)
            .collect();
        idle.sort_by_key(|(image, seen)| (seen.used, seen.first, image.id.clone()));
        let mut freed = 0;
        let mut victims = Vec::new();
        for (image, seen) in idle {
            let old = !policy.maximum_age.is_zero() && age(seen.used.unwrap_or(seen.first)) > policy.maximum_age;
            if freed < wanted || old {
                freed += image.size;
                victims.push((image.id.clone(), image.size));
            }
        }
        victims
    }
}

fn is_used(image: &v1::Image, used: &HashSet<String>) -> bool {
    used.contains(&image.id) || image.repo_tags.iter().chain(&image.repo_digests).any(|name| used.contains(name))
}

/// How many bytes to free on a disk, if it is too full.
pub fn wanted(policy: &Policy, capacity: i64, available: i64) -> Option<u64> {
    if capacity <= 0 {
        return None;
    }
    let used = 100 - i128::from(available) * 100 / i128::from(capacity);
    let goal = i128::from(capacity) * i128::from(100 - policy.low.min(100)) / 100 - i128::from(available);
    (used >= i128::from(policy.high) && policy.high < 100).then(|| u64::try_from(goal).unwrap_or(0))
}

/// What is said of less having been freed than was wanted: the events' reasons, and their message. Once may be chance, `again` is not.
pub fn complaint(wanted: u64, freed: u64, again: bool) -> (&'static [&'static str], String) {
    let message = format!(
        "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes \
         eligible to free."
    );
    let reasons: &[&str] = if again { &["FreeDiskSpaceFailed", "ImageGCFailed"] } else { &["FreeDiskSpaceFailed"] };
    (reasons, message)
}

/// How long to wait between looks.
pub const EVERY: SignedDuration = SignedDuration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, size: u64) -> v1::Image {
        v1::Image { id: id.into(), repo_tags: vec![format!("tag-{id}")], size, ..Default::default() }
    }

    #[test]
    fn the_longest_unused_go_until_enough_is_free() {
        let policy =
            Policy { high: 85, low: 80, minimum_age: Duration::from_secs(120), maximum_age: Duration::from_secs(5000) };
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut all = vec![image("used", 10), image("early", 10), image("late", 10), image("never", 10)];
        let used = |names: &[&str]| names.iter().map(ToString::to_string).collect::<HashSet<_>>();
        let mut images = Images::default();
        images.note(&all, &used(&["used", "early", "tag-late"]), at(0));
        images.note(&all, &used(&["used", "tag-late"]), at(100));
        all.push(image("new", 10));
        images.note(&all, &used(&["used"]), at(200));
        let victims = |wanted, now| {
            let found = images.victims(&all, &used(&["used"]), &policy, wanted, at(now));
            found.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
        };

        assert_eq!(victims(15, 210), ["never", "early"]);
        assert_eq!(victims(1000, 210), ["never", "early", "late"]);
        assert_eq!(victims(0, 210), Vec::<String>::new());
        assert_eq!(victims(0, 5050), ["never", "early"]);
    }

    /// A kubelet that is started on a full disk need not evict pods first.
    #[test]
    fn what_was_there_at_the_start_is_old() {
        let policy =
            Policy { high: 85, low: 80, minimum_age: Duration::from_secs(120), maximum_age: Duration::from_secs(5) };
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut all = vec![image("old", 10), image("used", 10)];
        let used = HashSet::from(["used".to_owned()]);
        let mut images = Images::default();
        images.note(&all, &used, at(0));
        let first = images.victims(&all, &used, &policy, 1, at(0));
        let unwanted = images.victims(&all, &used, &policy, 0, at(0));
        all.push(image("new", 10));
        images.note(&all, &used, at(1));
        let second = images.victims(&all, &used, &policy, 1000, at(1));
        assert_eq!([first, unwanted, second], [vec![("old".to_owned(), 10)], vec![], vec![("old".to_owned(), 10)]]);
    }

    #[test]
    fn a_second_failure_is_told_twice() {
        let message = "Failed to garbage collect required amount of images. Attempted to free 9 bytes, but only found 4 bytes \
                       eligible to free.";
        assert_eq!(complaint(9, 4, false), (&["FreeDiskSpaceFailed"][..], message.to_owned()));
        assert_eq!(complaint(9, 4, true), (&["FreeDiskSpaceFailed", "ImageGCFailed"][..], message.to_owned()));
    }

    #[test]
    fn how_much_is_wanted() {
        let policy = Policy { high: 85, low: 80, minimum_age: Duration::ZERO, maximum_age: Duration::ZERO };
        let never = Policy { high: 100, ..policy };
        let found =
            [wanted(&policy, 1000, 160), wanted(&policy, 1000, 150), wanted(&policy, 1000, 10), wanted(&policy, 0, 0)];
        assert_eq!(found, [None, Some(50), Some(190), None]);
        assert_eq!(wanted(&never, 1000, 0), None);
    }
}
