//! Where in a module a visitor or a mapper is.

/// The names that lead to a parameter, as the files of weights have them.
///
/// ```
/// use nabla_grad::module_path::ModulePath;
///
/// let mut path = ModulePath::default();
/// path.enter("encoder", "Struct:Encoder");
/// path.enter("Small", "Enum:Size");
/// path.enter("weight", "Struct:Linear");
/// // Which variant of an enum a module is, is no part of the name.
/// assert_eq!(path.name(), "encoder.weight");
/// assert_eq!((path.last(), path.parent().as_str()), (Some("weight"), "encoder"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct ModulePath(Vec<(String, bool)>);

impl ModulePath {
    /// Enters a part of the present module, as `enter_module` of a visitor says.
    pub fn enter(&mut self, name: &str, container_type: &str) {
        let told = !container_type.starts_with("Enum:");
        self.0.push((name.to_owned(), told));
    }

    /// Leaves it.
    pub fn exit(&mut self) {
        self.0.pop();
    }

    fn told(&self) -> Vec<&str> {
        let told = self.0.iter().filter(|(_, told)| *told);
        told.map(|(name, _)| name.as_str()).collect()
    }

    /// The dotted name: `encoder.0.weight`.
    pub fn name(&self) -> String {
        self.told().join(".")
    }

    /// The last part of the name.
    pub fn last(&self) -> Option<&str> {
        self.told().last().copied()
    }

    /// The name without its last part; empty if it has only one.
    pub fn parent(&self) -> String {
        match self.told().split_last() {
            Some((_, parent)) => parent.join("."),
            None => String::new(),
        }
    }
}
