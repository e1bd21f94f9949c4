//! Printing what was written: `-o`, or the line that tells of it.

use std::cell::Cell;

use serde_json::Value;

use crate::{
    failure::Failure,
    output::{DryRun, OutputArgs, Printer, hide_managed_fields, json, message},
    typed,
};

/// How objects are shown once they are written.
#[derive(Debug)]
pub struct Show {
    printer: Option<Printer>,
    operation: String,
    dry_run: DryRun,
    managed_fields: bool,
    printed: Cell<usize>,
}

impl Show {
    /// As the flags say; without `-o` a line with the operation.
    ///
    /// # Errors
    /// The format is unknown or its template is wrong.
    pub fn new(args: &OutputArgs, operation: &str, dry_run: DryRun) -> Result<Self, Failure> {
        let (printer, operation) = (args.printer()?, operation.to_owned());
        Ok(Self { printer, operation, dry_run, managed_fields: args.show_managed_fields, printed: Cell::new(0) })
    }

    /// Whether whole objects are shown, and not lines or names.
    fn whole_objects(&self) -> bool {
        !matches!(self.printer, None | Some(Printer::Name))
    }

    /// An object, or the line about it.
    ///
    /// # Errors
    /// A template does not apply.
    pub fn print(&self, object: &Value) -> Result<(), Failure> {
        self.print_as(object, &self.operation)
    }

    /// The same with another operation.
    ///
    /// # Errors
    /// A template does not apply.
    pub fn print_as(&self, object: &Value, operation: &str) -> Result<(), Failure> {
        self.show(object, operation, json::compact)
    }

    fn show(&self, object: &Value, operation: &str, compact: fn(&Value) -> String) -> Result<(), Failure> {
        let text = match &self.printer {
            None => message(object, &format!("{operation}{}", self.dry_run.suffix())),
            Some(printer) => printer.print_with(object, self.printed.get(), self.managed_fields, compact)?,
        };
        self.printed.set(self.printed.get() + 1);
        print!("{text}");
        Ok(())
    }

    /// An object as typed clients print it: JSON has the type's order.
    ///
    /// # Errors
    /// A template does not apply.
    pub fn typed(&self, object: &Value) -> Result<(), Failure> {
        self.typed_as(object, &self.operation)
    }

    /// The same with another operation.
    ///
    /// # Errors
    /// A template does not apply.
    pub fn typed_as(&self, object: &Value, operation: &str) -> Result<(), Failure> {
        if !self.whole_objects() {
            return self.print_as(object, operation);
        }
        let mut object = typed::complete(object.clone());
        if !matches!(self.printer, Some(Printer::Json)) {
            return self.show(&object, operation, typed::compact);
        }
        if !self.managed_fields {
            hide_managed_fields(&mut object);
        }
        println!("{}", typed::pretty(&object));
        Ok(())
    }
}
