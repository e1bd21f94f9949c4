//! The order that Go's `sort.Sort` leaves: where keys are equal, it is neither the one before nor any other that follows from
//! the keys, but it is always the same. What upstream's kubectl prints sorted shows it.
//!
//! It is pattern-defeating quicksort (Orson Peters, 2021) as Go 1.19 to 1.23 have it: the same choices of pivots, thresholds and
//! pseudorandom numbers, so that the same exchanges happen. The comparison need be no order at all: upstream finds what lacks a
//! field smaller than everything, itself included. So no comparison may be saved or added either.

/// Up to so many are sorted by insertion.
const FEW: usize = 12;
/// From so many on a range is looked at closer: more candidates for the pivot, repairs of a nearly sorted range.
const MANY: usize = 50;
/// So many misplaced items are repaired at most.
const REPAIRS: usize = 5;
/// All comparisons of the choice of a pivot turn out so: the range is likely the wrong way round.
const ALL_TURNED: usize = 12;

/// Sorts by a key, as Go does.
pub fn sort_by_key<T, K: Ord>(items: &mut [T], key: impl Fn(&T) -> K) {
    sort(items, |a, b| key(a) < key(b));
}

/// Sorts by whether the first of two items belongs before the other, as Go does.
pub fn sort<T>(items: &mut [T], less: impl Fn(&T, &T) -> bool) {
    let end = items.len();
    if end > 1 {
        Sorter { items, less }.quick(0, end, bits(end));
    }
}

/// How many bits a number has.
fn bits(number: usize) -> u32 {
    usize::BITS - number.leading_zeros()
}

/// What the look at a range says of it.
#[derive(PartialEq)]
enum Guess {
    Sorted,
    Reversed,
    Nothing,
}

struct Sorter<'a, T, F> {
    items: &'a mut [T],
    less: F,
}

impl<T, F: Fn(&T, &T) -> bool> Sorter<'_, T, F> {
    fn less(&self, a: usize, b: usize) -> bool {
        (self.less)(&self.items[a], &self.items[b])
    }

    /// Sorts `from..to`; after `patience` badly split ranges by a heap.
    fn quick(&mut self, mut from: usize, mut to: usize, mut patience: u32) {
        let (mut balanced, mut untouched) = (true, true);
        loop {
            let length = to - from;
            if length <= FEW {
                return self.insertion(from, to);
            }
            if patience == 0 {
                return self.heap(from, to);
            }
            if !balanced {
                self.shuffle(from, to);
                patience -= 1;
            }
            let (mut pivot, mut guess) = self.pivot(from, to);
            if guess == Guess::Reversed {
                self.items[from..to].reverse();
                pivot = (to - 1) - (pivot - from);
                guess = Guess::Sorted;
            }
            if balanced && untouched && guess == Guess::Sorted && self.repair(from, to) {
                return;
            }
            // What stands before a range is at most as large as all in it: a pivot that equals it is the smallest there.
            if from > 0 && !self.less(from - 1, pivot) {
                from = self.split_equal(from, to, pivot);
                continue;
            }
            let (middle, was_split) = self.split(from, to, pivot);
            untouched = was_split;
            let (left, right) = (middle - from, to - middle);
            balanced = left.min(right) >= length / 8;
            if left < right {
                self.quick(from, middle, patience);
                from = middle + 1;
            } else {
                self.quick(middle + 1, to, patience);
                to = middle;
            }
        }
    }

    fn insertion(&mut self, from: usize, to: usize) {
        for end in from + 1..to {
            self.sink(end, from);
        }
    }

    /// Moves an item down to its place, not below `floor`.
    fn sink(&mut self, mut at: usize, floor: usize) {
        while at > floor && self.less(at, at - 1) {
            self.items.swap(at, at - 1);
            at -= 1;
        }
    }

    fn heap(&mut self, from: usize, to: usize) {
        let length = to - from;
        for root in (0..=(length - 1) / 2).rev() {
            self.sift(from, root, length);
        }
        for last in (0..length).rev() {
            self.items.swap(from, from + last);
            self.sift(from, 0, last);
        }
    }

    /// Lets an item of the heap at `from` sink below larger children.
    fn sift(&mut self, from: usize, mut root: usize, length: usize) {
        loop {
            let mut child = 2 * root + 1;
            if child >= length {
                return;
            }
            if child + 1 < length && self.less(from + child, from + child + 1) {
                child += 1;
            }
            if !self.less(from + root, from + child) {
                return;
            }
            self.items.swap(from + root, from + child);
            root = child;
        }
    }

    /// Exchanges three items in the middle with others that the range's length decides.
    fn shuffle(&mut self, from: usize, to: usize) {
        let length = to - from;
        let mut random = length as u64;
        let mask = (1_u64 << bits(length)) - 1;
        let middle = from + length / 4 * 2;
        for target in middle - 1..=middle + 1 {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            let other = (random & mask) as usize;
            self.items.swap(target, from + if other < length { other } else { other - length });
        }
    }

    /// The median of three items, each the median of three neighbours if the range is long.
    fn pivot(&self, from: usize, to: usize) -> (usize, Guess) {
        let quarter = (to - from) / 4;
        let mut turned = 0;
        let mut candidates = [1, 2, 3].map(|n| from + n * quarter);
        if to - from >= MANY {
            candidates = candidates.map(|at| self.median([at - 1, at, at + 1], &mut turned));
        }
        let pivot = self.median(candidates, &mut turned);
        let guess = match turned {
            0 => Guess::Sorted,
            ALL_TURNED => Guess::Reversed,
            _ => Guess::Nothing,
        };
        (pivot, guess)
    }

    /// The place of the median; counts the exchanges that it took.
    fn median(&self, mut places: [usize; 3], turned: &mut usize) -> usize {
        for first in [0, 1, 0] {
            if self.less(places[first + 1], places[first]) {
                places.swap(first, first + 1);
                *turned += 1;
            }
        }
        places[1]
    }

    /// Puts a few misplaced items right; whether the range is sorted then.
    fn repair(&mut self, from: usize, to: usize) -> bool {
        let mut at = from + 1;
        for _ in 0..REPAIRS {
            while at < to && !self.less(at, at - 1) {
                at += 1;
            }
            if at == to {
                return true;
            }
            if to - from < MANY {
                return false;
            }
            self.items.swap(at, at - 1);
            if at - from >= 2 {
                // Go looks down to the beginning of all here, not of the range.
                self.sink(at - 1, 0);
            }
            let mut rising = at + 1;
            while rising < to && self.less(rising, rising - 1) {
                self.items.swap(rising, rising - 1);
                rising += 1;
            }
        }
        false
    }

    /// Splits into what is less than the pivot and the rest; where the pivot is then, and whether nothing had to move.
    fn split(&mut self, from: usize, to: usize, pivot: usize) -> (usize, bool) {
        self.items.swap(from, pivot);
        let (mut left, mut right, mut rounds) = (from + 1, to - 1, 0);
        loop {
            while left <= right && self.less(left, from) {
                left += 1;
            }
            while left <= right && !self.less(right, from) {
                right -= 1;
            }
            if left > right {
                self.items.swap(from, right);
                return (right, rounds == 0);
            }
            self.items.swap(left, right);
            (left, right, rounds) = (left + 1, right - 1, rounds + 1);
        }
    }

    /// Splits into what equals the pivot and what is larger; where the latter begins.
    fn split_equal(&mut self, from: usize, to: usize, pivot: usize) -> usize {
        self.items.swap(from, pivot);
        let (mut left, mut right) = (from + 1, to - 1);
        loop {
            while left <= right && !self.less(from, left) {
                left += 1;
            }
            while left <= right && self.less(from, right) {
                right -= 1;
            }
            if left > right {
                return left;
            }
            self.items.swap(left, right);
            (left, right) = (left + 1, right - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use proptest::prelude::*;

    use super::*;

    /// Numbers that look random and are always the same.
    fn numbers(count: u64, below: u64) -> Vec<(u64, u64)> {
        let mut state = count * 1000 + below;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        (0..count).map(|place| (next(), place)).collect()
    }

    /// Where the items of a few sorts were before, as one number (FNV-1a).
    fn digest(places: impl Iterator<Item = u64>) -> u64 {
        places.fold(0xcbf2_9ce4_8422_2325, |hash, place| (hash ^ place).wrapping_mul(0x0100_0000_01b3))
    }

    fn places(items: &[(u64, u64)]) -> Vec<u64> {
        items.iter().map(|(_, place)| *place).collect()
    }

    /// What Go 1.22 makes of so many numbers below a bound: by size, and where zeros are less than everything.
    const ORDERS: &[(u64, u64, u64, u64)] = &[
        (13, 2, 0xb56a_3bef_b8a0_e983, 0xf79a_b40d_615c_fd5f),
        (20, 3, 0xfff7_8db3_d5fb_b42b, 0xcd39_2bba_aa85_246b),
        (49, 4, 0x655b_3d16_b274_1d17, 0x6cc7_80e7_6d00_fc91),
        (50, 4, 0xedf0_7227_ee3b_c2d8, 0x016d_a417_53cf_4d4e),
        (64, 60, 0x7af9_58b1_4331_e4f7, 0x7af9_58b1_4331_e4f7),
        (100, 3, 0x5741_c7a9_ff40_d97d, 0xa18c_157e_83af_b3bd),
        (200, 7, 0xf0e0_bb6e_b93a_d0bb, 0x5190_435b_ea63_053f),
        (1000, 10, 0xf56f_4b87_5b9e_30c3, 0xf419_a834_b774_44fd),
        (5000, 50000, 0x9d04_3114_c42a_19af, 0x9d04_3114_c42a_19af),
    ];

    #[test]
    fn orders_of_go() {
        for &(count, below, by_key, with_zeros) in ORDERS {
            let (mut items, mut lacking) = (numbers(count, below), numbers(count, below));
            sort_by_key(&mut items, |(key, _)| *key);
            sort(&mut lacking, |a, b| a.0 == 0 || (b.0 != 0 && a.0 < b.0));
            let got = (digest(places(&items).into_iter()), digest(places(&lacking).into_iter()));
            assert_eq!(got, (by_key, with_zeros), "{count} items of {below} keys");
        }
    }

    #[test]
    fn twenty_items_of_two_keys() {
        let mut items: Vec<(u64, u64)> = (0..20).map(|place| (place % 2, place)).collect();
        sort_by_key(&mut items, |(key, _)| *key);
        assert_eq!(places(&items), [10, 18, 2, 16, 4, 0, 6, 14, 8, 12, 5, 11, 9, 13, 7, 15, 3, 17, 1, 19]);
    }

    #[test]
    fn orders_of_go_where_there_was_one() {
        type Key = fn(u64, u64) -> u64;
        let turned: Key = |place, count| count - place;
        let there_and_back: Key = |place, count| place.min(count - place);
        let nearly: Key = |place, _| if place % 23 == 5 { place - 4 } else { place };
        let wanted: [(Key, u64, u64); 6] = [
            (turned, 60, 0xdd61_e949_c414_6df9),
            (there_and_back, 60, 0xebe5_7162_90b3_cec3),
            (nearly, 60, 0x24d9_be09_2cf8_b269),
            (turned, 300, 0x8caa_feb4_e9f2_9a79),
            (there_and_back, 300, 0xf317_782c_80b3_48d3),
            (nearly, 300, 0x31bb_e51c_4ad1_bb05),
        ];
        for (key, count, want) in wanted {
            let mut items: Vec<(u64, u64)> = (0..count).map(|place| (key(place, count), place)).collect();
            sort_by_key(&mut items, |(key, _)| *key);
            assert_eq!(digest(places(&items).into_iter()), want, "{count}");
        }
    }

    /// Decides only while it is asked, so that every split is the worst one (McIlroy, "A killer adversary for quicksort").
    /// What comes out depends on every comparison made, those of the heap included.
    #[test]
    fn worst_cases_of_go() {
        for (count, want) in [(13, 0x8408_b4d0_daa6_e87b), (100, 0x97fa_3905_29e2_56d9), (1000, 0x43da_cbe0_71a6_5f3f)] {
            let open = count;
            let (known, next, candidate) = (RefCell::new(vec![open; count]), Cell::new(0), Cell::new(0));
            let mut items: Vec<usize> = (0..count).collect();
            sort(&mut items, |&a, &b| {
                let mut known = known.borrow_mut();
                if known[a] == open && known[b] == open {
                    known[if a == candidate.get() { a } else { b }] = next.replace(next.get() + 1);
                }
                if known[a] == open {
                    candidate.set(a);
                } else if known[b] == open {
                    candidate.set(b);
                }
                known[a] < known[b]
            });
            assert_eq!(digest(items.into_iter().map(|place| place as u64)), want, "{count}");
        }
    }

    proptest! {
        #[test]
        fn sorted_and_nothing_lost(keys in prop::collection::vec(0_u8..40, 0..400)) {
            let mut items: Vec<(u8, usize)> = keys.iter().copied().zip(0..).collect();
            sort_by_key(&mut items, |(key, _)| *key);
            prop_assert!(items.is_sorted_by_key(|(key, _)| *key));
            items.sort_unstable_by_key(|(_, place)| *place);
            prop_assert!(items.into_iter().eq(keys.into_iter().zip(0..)));
        }

        #[test]
        fn any_comparison_ends(keys in prop::collection::vec(0_u8..6, 0..300), table: [[bool; 6]; 6]) {
            let mut items: Vec<(u8, usize)> = keys.iter().copied().zip(0..).collect();
            sort(&mut items, |a, b| table[usize::from(a.0)][usize::from(b.0)]);
            items.sort_unstable_by_key(|(_, place)| *place);
            prop_assert!(items.into_iter().eq(keys.into_iter().zip(0..)));
        }
    }
}
