mod columns;
pub(crate) mod table;
