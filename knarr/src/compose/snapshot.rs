//! A running server's part in a snapshot: it alone can read its store's file.

use std::{path::Path, sync::Arc, time::SystemTime};

use anyhow::{Context, Result, bail};
use store::Store;
use tokio::runtime::Handle;

use crate::local::control::{self, Answer, Handler};

/// Everything in the store, as the bytes of a snapshot.
pub fn answer(store: &Arc<dyn Store>, runtime: &Handle) -> Result<Answer> {
    let export = runtime.block_on(store.export()).context("read the store")?;
    Ok(Answer::Stream(Box::new(move |out| {
        store::snapshot::write(export, SystemTime::now(), out).map(drop).context("send a snapshot")
    })))
}

/// Serves snapshots at the control socket in a server's data folder.
pub fn serve(data: &Path, store: Arc<dyn Store>) -> Result<()> {
    let runtime = Handle::current();
    let handler: Handler = Arc::new(move |command, _| match command {
        "snapshot save" => answer(&store, &runtime),
        other => bail!("this server does not know {other:?}"),
    });
    tokio::spawn(control::serve(control::listen(data)?, handler));
    Ok(())
}
