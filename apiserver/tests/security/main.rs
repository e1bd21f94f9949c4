//! Who may come in and what they may do, as stories over the whole server.

mod ask;
mod joining;
mod nodes;
mod puts;
