use super::*;

#[test]
fn every_name_is_a_method_and_every_method_has_its_name() {
    let names = method_names();
    assert!(names.len() >= 16);
    for name in names {
        let config = OptimizerConfig::named(&name).unwrap();
        assert_eq!(config.name(), name);
        config.validate().unwrap();
        let text = toml::to_string(&config).unwrap();
        assert!(text.contains(&format!("name = \"{name}\"")), "{text}");
        assert_eq!(toml::from_str::<OptimizerConfig>(&text).unwrap(), config);
    }
    let told = "newton".parse::<Method>().unwrap_err().to_string();
    assert!(
        told.contains("no optimizer \"newton\", only sgd, momentum"),
        "{told}"
    );
}

#[test]
fn values_out_of_range_and_unknown_fields_are_refused() {
    let told = |text: &str| {
        let config: OptimizerConfig = toml::from_str(text).unwrap();
        config.validate().unwrap_err().to_string()
    };
    assert!(told("learning_rate = 0.0").contains("the learning rate of the optimizer is 0"));
    assert!(told("weight_decay = -1.0").contains("weight decay"));
    assert!(told("method = { name = \"adam\", beta_2 = 1.0 }").contains("beta_2"));
    assert!(told("method = { name = \"adamp\", beta_2 = 1.0 }").contains("beta_2"));
    assert!(told("[[groups]]\nparameters = \"a\"\nlearning_rate_factor = -1.0").contains("factor"));
    let refused = |text: &str| {
        let config = toml::from_str::<OptimizerConfig>(text);
        config.unwrap_err().to_string()
    };
    let unknown = refused("method = { name = \"adam\", beta = 1.0 }");
    assert!(unknown.contains("unknown field `beta`"), "{unknown}");
    // A setting of a group of parameters is not an option.
    let decay = refused("method = { name = \"adam\", weight_decay = 1.0 }");
    assert!(decay.contains("unknown field `weight_decay`"), "{decay}");
    let kind = refused("method = { name = \"diffgrad\", friction = \"sandpaper\" }");
    assert!(kind.contains("unknown variant `sandpaper`"), "{kind}");
    let name = refused("method = { name = \"newton\" }");
    assert!(name.contains("no optimizer \"newton\""), "{name}");
}

/// Every coefficient of the library, not a part of them, in the words of files so far.
#[test]
fn options_are_those_of_the_librarys_configurations() {
    let words = [
        "sigmoid",
        "signed-sigmoid",
        "wide-sigmoid",
        "deviation-sigmoid",
        "squared-deviation-sigmoid",
        "root-deviation-sigmoid",
        "tanh",
        "momentum-sigmoid",
    ];
    for word in words {
        let text = format!("name = \"diffgrad\"\nfriction = \"{word}\"");
        let method: Method = toml::from_str(&text).unwrap();
        assert_eq!(method.option("friction"), Some(&word.into()));
        method.validate().unwrap();
    }
    for word in ["coupled", "decoupled", "fixed"] {
        let method = Method::named("adabelief").unwrap();
        method
            .with("weight_decay_mode", word)
            .unwrap()
            .validate()
            .unwrap();
    }
    let one = Method::named("adam").unwrap().with("epsilon", 1).unwrap();
    assert_eq!(
        one,
        Method::named("adam").unwrap().with("epsilon", 1.0).unwrap()
    );
}

#[test]
fn a_method_of_ones_own_has_a_name_once_it_is_registered() {
    use nabla_optim::diffgrad::DiffGradConfig;
    let own = Entry::<DiffGradConfig> {
        name: "registered-in-a-test",
        summary: "",
        learning_rate: 0.5,
        decay: "coupled",
        state: "3",
        source: "",
        of_nabla: false,
        defaults: DiffGradConfig::new,
        ranges: &[],
        assemble: |config, parameters| per_parameter(parameters, |_| Ok(config.build()?)),
    };
    assert!(own.name.parse::<Method>().is_err());
    register(own.clone()).unwrap();
    let method: Method = toml::from_str("name = \"registered-in-a-test\"\nbeta_1 = 0.5").unwrap();
    assert_eq!(method.learning_rate(), 0.5);
    let taken = register(own).unwrap_err().to_string();
    assert!(taken.contains("already"), "{taken}");
}

/// A 32-bit number keeps its few digits in files.
#[test]
fn a_configuration_keeps_its_order_and_its_digits() {
    use burn::optim::AdamWConfig;
    let options = Options::of(&AdamWConfig::new().with_epsilon(1e-8)).unwrap();
    let text = serde_json::to_string(&options).unwrap();
    assert!(
        text.contains(r#""beta_1":0.9,"beta_2":0.999,"epsilon":1e-8,"#),
        "{text}"
    );
    let back: AdamWConfig = options.to_config().unwrap();
    assert_eq!(Options::of(&back).unwrap(), options);
}

/// The table of the module's documentation is that of the registry.
#[test]
fn the_table_is_that_of_the_registry() {
    let documented: Vec<&str> = include_str!("mod.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `"))
        .collect();
    let registered: Vec<String> = methods::all().iter().map(|m| row(&**m)).collect();
    let registered: Vec<&str> = registered.iter().map(|r| &r["| `".len()..]).collect();
    assert_eq!(documented, registered);
}

fn row(method: &dyn OptimizerMethod) -> String {
    let rate = match method.learning_rate() {
        rate if rate < 0.01 => format!("{rate:e}"),
        rate => rate.to_string(),
    };
    [
        format!("`{}`", method.name()),
        method.summary().to_owned(),
        rate,
        method.decay().to_owned(),
        method.state().to_owned(),
        method.source().to_owned(),
    ]
    .iter()
    .fold(String::from("|"), |row, cell| match cell.as_str() {
        "" => row + " |",
        cell => row + " " + cell + " |",
    })
}

/// The book's table, too.
#[test]
fn the_books_table_is_that_of_the_registry() {
    let book = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/training.md");
    let book = std::fs::read_to_string(book).unwrap();
    for method in methods::all() {
        let row = row(&*method);
        assert!(book.lines().any(|line| line == row), "{row}");
    }
}
