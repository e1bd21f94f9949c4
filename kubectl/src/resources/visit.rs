//! One after another: what was asked for is fetched when its turn has come, and what goes wrong is told in the end.
//!
//! Upstream nests visitors, and what it prints of several failures follows from that: what goes wrong with a single object is
//! a failure of its own, in the order of the objects; what goes wrong with a source (a file, a list that cannot be had) is
//! gathered by itself and comes after these, as one.

use super::{Found, Object, Query, Target, Targets, Turn, items};
use crate::{client::JSON, context::Context, failure::Failure};

/// What went wrong.
#[derive(Debug, Default)]
struct Wrong {
    /// With objects.
    objects: Vec<Failure>,
    /// With sources.
    sources: Sources,
}

/// What goes wrong with sources: what does with parts of one list is one failure.
#[derive(Debug, Default)]
pub struct Sources {
    /// In order.
    pub failures: Vec<Failure>,
    /// What the last one is about.
    list: Option<usize>,
}

impl Sources {
    /// Adds what went wrong, with a part of a list or by itself.
    pub fn add(&mut self, list: Option<usize>, failure: Failure) {
        match self.failures.last_mut() {
            Some(Failure::Many(last)) if list.is_some() && list == self.list => last.push(failure),
            _ if list.is_some() => self.failures.push(Failure::Many(vec![failure])),
            _ => self.failures.push(failure),
        }
        self.list = list;
    }
}

impl Wrong {
    fn told(self) -> Result<(), Failure> {
        let mut all = self.objects;
        let sources = Failure::grouped(self.sources.failures, all.is_empty());
        all.extend(sources);
        Failure::of(all)
    }
}

impl Targets {
    /// Does the same to each object. What goes wrong with one does not keep it from the others.
    ///
    /// # Errors
    /// All that went wrong.
    pub async fn visit(
        self,
        query: &Query<'_>,
        cx: &Context,
        act: impl AsyncFnMut(Object) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.each(query, cx, act).await.told()
    }

    async fn each(
        mut self,
        query: &Query<'_>,
        cx: &Context,
        mut act: impl AsyncFnMut(Object) -> Result<(), Failure>,
    ) -> Wrong {
        let mut wrong = Wrong::default();
        while let Some(Turn { list, target }) = self.next(query, cx).await {
            let target = match target {
                Ok(target) => target,
                Err(failure) => {
                    wrong.sources.add(list, failure);
                    continue;
                }
            };
            match query.objects_of(cx, &target).await {
                Ok(objects) => {
                    for object in objects {
                        wrong.objects.extend(act(object).await.err());
                    }
                }
                Err(failure) if matches!(target, Target::Named { .. }) => wrong.objects.push(failure),
                Err(failure) => wrong.sources.add(list, failure),
            }
        }
        if query.ignore_not_found {
            wrong.objects = Failure::but_missing(wrong.objects);
            wrong.sources.failures = Failure::but_missing(wrong.sources.failures);
        }
        wrong
    }
}

impl Query<'_> {
    /// [`Targets::visit`] of all that was asked for.
    ///
    /// # Errors
    /// If it cannot be made out what was asked for; else all that went wrong.
    pub async fn visit(&self, cx: &Context, act: impl AsyncFnMut(Object) -> Result<(), Failure>) -> Result<(), Failure> {
        self.targets(cx).await?.visit(self, cx, act).await
    }

    /// Fetches everything that was asked for, object by object.
    ///
    /// # Errors
    /// If it cannot be made out what was asked for. What cannot be fetched is told in [`Found::failures`].
    pub async fn objects(&self, cx: &Context) -> Result<Found, Failure> {
        let targets = self.targets(cx).await?;
        let (single, mut objects) = (targets.single, Vec::new());
        let gathered = targets.each(self, cx, async |object| {
            objects.push(object);
            Ok(())
        });
        let wrong = gathered.await;
        let failures = wrong.objects.into_iter().chain(wrong.sources.failures).collect();
        Ok(Found { objects, failures, single })
    }

    /// Does the same to each object of a part (see [`Targets::parts`]) up to the first that it goes wrong with; of a list's parts,
    /// to all.
    ///
    /// # Errors
    /// What went wrong first.
    pub async fn visit_part(
        &self,
        cx: &Context,
        mut part: Targets,
        mut act: impl AsyncFnMut(Object) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut wrong = Sources::default();
        loop {
            let turn = match wrong.failures.is_empty() {
                true => part.next(self, cx).await,
                false => part.rest(self, cx).await,
            };
            let Some(Turn { list, target }) = turn else { break };
            let mut visit = async |target: Result<Target, Failure>| {
                for object in self.objects_of(cx, &target?).await? {
                    act(object).await?;
                }
                Ok(())
            };
            if let Err(failure) = visit(target).await {
                wrong.add(list, failure);
                if list.is_none() {
                    break;
                }
            }
        }
        Failure::of(Failure::flat(wrong.failures))
    }

    /// Visits all parts, whatever is wrong with one of them.
    ///
    /// # Errors
    /// If it cannot be made out what was asked for; else what went wrong first.
    pub async fn visit_parts(
        &self,
        cx: &Context,
        mut act: impl AsyncFnMut(Object) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut first = Ok(());
        for part in self.targets(cx).await?.parts() {
            first = first.and(self.visit_part(cx, part, &mut act).await);
        }
        first
    }

    async fn objects_of(&self, cx: &Context, target: &Target) -> Result<Vec<Object>, Failure> {
        if let Target::Local(object) = target
            && !self.latest
        {
            return Ok(vec![object.clone()]);
        }
        let pages = self.fetch(cx.client()?, target, JSON).await?;
        let values = pages.into_iter().flat_map(|page| match target {
            Target::List { .. } => items(page),
            _ => vec![page],
        });
        let received = |value| {
            let mut object = Object::received(target.mapping(), value);
            if let Target::Local(local) = target {
                object.source.clone_from(&local.source);
            }
            object
        };
        Ok(values.map(received).collect())
    }
}
