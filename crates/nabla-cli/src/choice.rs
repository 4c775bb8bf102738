//! Flags whose values are named by the libraries.

use std::ffi::OsStr;
use std::marker::PhantomData;
use std::mem::discriminant;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Command, Error};
use nabla::base::choices::{Choice, Choices};

/// Parses a value by its name, and lists all values in the help.
pub fn choice<T: Choices>() -> ChoiceParser<T> {
    ChoiceParser(PhantomData)
}

/// What a flag chooses over the file: the same choice keeps the options that the file gives.
pub fn chosen<T>(flag: Option<T>, file: T) -> T {
    match flag {
        Some(flag) if discriminant(&flag) != discriminant(&file) => flag,
        _ => file,
    }
}

/// The parser of [`choice`].
pub struct ChoiceParser<T>(PhantomData<fn() -> T>);

impl<T> Clone for ChoiceParser<T> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

fn possible<T: Choices>() -> Vec<PossibleValue> {
    let value = |choice: Choice<T>| PossibleValue::new(choice.name).help(choice.about);
    T::choices().into_iter().map(value).collect()
}

impl<T: Choices + Clone + Send + Sync + 'static> TypedValueParser for ChoiceParser<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<T, Error> {
        let known = PossibleValuesParser::new(possible::<T>());
        let name = known.parse_ref(command, argument, value)?;
        T::choice(&name).map_err(|e| Error::raw(ErrorKind::InvalidValue, e))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(possible::<T>().into_iter()))
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};
    use nabla::panorama::CubeLayout;

    use super::*;

    #[derive(Args)]
    struct Flags {
        /// The layout
        #[arg(long, value_parser = choice::<CubeLayout>(), default_value = "strip")]
        layout: CubeLayout,
    }

    fn parsed(line: &[&str]) -> Result<CubeLayout, Error> {
        let command = Flags::augment_args(Command::new("x"));
        let matches = command.try_get_matches_from(line)?;
        Ok(Flags::from_arg_matches(&matches)?.layout)
    }

    #[test]
    fn the_names_of_a_library_are_values_of_a_flag() {
        assert_eq!(parsed(&["x"]).unwrap(), CubeLayout::Strip);
        for Choice { name, value, .. } in CubeLayout::choices() {
            assert_eq!(parsed(&["x", "--layout", name]).unwrap(), value);
        }
        let told = parsed(&["x", "--layout", "ring"]).unwrap_err().to_string();
        assert!(
            told.contains("invalid value 'ring' for '--layout <LAYOUT>'"),
            "{told}"
        );
        assert!(told.contains("[possible values: strip, dice, cross]"));
        let help = Flags::augment_args(Command::new("x")).render_long_help();
        let help = help.to_string();
        for Choice { name, about, .. } in CubeLayout::choices() {
            let line = help.lines().find(|l| l.contains(&format!("- {name}:")));
            assert!(line.is_some_and(|l| l.ends_with(about)), "{help}");
        }
    }
}
