//! A type's fields by number, with the messages that JSON does not show (`Volume` holds a `VolumeSource`).

use std::sync::OnceLock;

use crate::schema::table::{Field, TypeId, table};

/// What has a number.
#[derive(Debug)]
pub(super) enum Slot {
    /// A field.
    Field(&'static Field),
    /// A message whose fields JSON shows in the owner.
    Inline(Layout),
}

/// Slots in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Layout {
    slots: Vec<(u32, Slot)>,
    /// Whether every field has a number.
    pub(super) complete: bool,
}

impl Layout {
    pub(super) fn slots(&self) -> &[(u32, Slot)] {
        &self.slots
    }

    pub(super) fn get(&self, number: u32) -> Option<&Slot> {
        self.slots.binary_search_by_key(&number, |(n, _)| *n).ok().map(|at| &self.slots[at].1)
    }

    fn add(&mut self, path: &str, field: &'static Field) -> Option<()> {
        let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
        let number: u32 = head.parse().ok()?;
        let at = self.slots.binary_search_by_key(&number, |(n, _)| *n);
        match (rest, at) {
            (None, Err(at)) => self.slots.insert(at, (number, Slot::Field(field))),
            (Some(rest), Err(at)) => {
                let mut inner = Self::default();
                inner.add(rest, field)?;
                self.slots.insert(at, (number, Slot::Inline(inner)));
            }
            (Some(rest), Ok(at)) => match &mut self.slots[at].1 {
                Slot::Inline(inner) => inner.add(rest, field)?,
                Slot::Field(_) => return None,
            },
            (None, Ok(_)) => return None,
        }
        Some(())
    }

    fn of(id: TypeId) -> Self {
        let mut layout = Self { complete: true, ..Self::default() };
        for field in &table().get(id).fields {
            // The envelope tells the kind of what has one.
            let told = field.path.is_empty() && matches!(field.name, "kind" | "apiVersion");
            if !told && layout.add(field.path, field).is_none() {
                layout.complete = false;
            }
        }
        layout
    }
}

/// A type's layout, made on first use.
pub(super) fn layout(id: TypeId) -> &'static Layout {
    static LAYOUTS: OnceLock<Vec<OnceLock<Layout>>> = OnceLock::new();
    let layouts = LAYOUTS.get_or_init(|| table().types().map(|_| OnceLock::new()).collect());
    layouts[id.index()].get_or_init(|| Layout::of(id))
}
