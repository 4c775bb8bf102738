use burn::tensor::Device;
use serde_json::Value;

use super::*;

/// What Pillow made (`tests/reference/make_pixel_filters.py`).
const PILLOW: &str = include_str!("../../tests/reference/pixel_filters.json");

fn pixels(size: [usize; 2], channels: &Value) -> Pixels {
    let value = |c: usize, y: usize, x: usize| {
        let at = y * size[1] + x;
        channels[c][at].as_f64().unwrap() as f32 / 255.0
    };
    Pixels::from_fn(3, size[0], size[1], value)
}

/// Pillow rounds to whole shades after each filter, and after each average of a blur.
#[test]
fn filters_are_pillows() {
    let known: Value = serde_json::from_str(PILLOW).unwrap();
    let side = |i: usize| known["size"][i].as_u64().unwrap() as usize;
    let size = [side(0), side(1)];
    let picture = pixels(size, &known["picture"]);
    for (chain, expected) in known["filtered"].as_object().unwrap() {
        let shades = match chain {
            name if name.starts_with("blur") => 3.0,
            name if name.contains('|') => 2.0,
            _ => 1.01,
        };
        let filtered = chain.parse::<FilterChain>().unwrap();
        let filtered = filtered.apply(picture.clone(), None).unwrap();
        let expected = pixels(size, expected);
        let pairs = filtered.values().iter().zip(expected.values());
        let worst = pairs
            .map(|(a, b)| (a - b).abs() * 255.0)
            .fold(0.0, f32::max);
        assert!(worst <= shades, "{chain}: {worst} shades");
    }
}

/// The rank filters change no value, only its place, so they agree to the bit.
#[test]
fn ranks_are_pillows_to_the_bit() {
    let known: Value = serde_json::from_str(PILLOW).unwrap();
    let picture = pixels([7, 9], &known["picture"]);
    for chain in [
        "rank:size=3,rank=2",
        "rank:size=5,rank=20",
        "median",
        "min",
        "max:5",
    ] {
        let filtered = chain.parse::<FilterChain>().unwrap();
        let filtered = filtered.apply(picture.clone(), None).unwrap();
        assert_eq!(
            filtered,
            pixels([7, 9], &known["filtered"][chain]),
            "{chain}"
        );
    }
}

fn ramp() -> Pixels {
    Pixels::from_fn(3, 6, 5, |c, y, x| (c + 3 * y + 7 * x) as f32 % 11.0 / 10.0)
}

#[test]
fn order_matters_and_strength_mixes() {
    let apply = |chain: &str| {
        chain
            .parse::<FilterChain>()
            .unwrap()
            .apply(ramp(), None)
            .unwrap()
    };
    assert_eq!(apply(""), ramp());
    assert_ne!(apply("max|invert"), apply("invert|max"));
    let (inverted, least) = (apply("invert|max|invert"), apply("min"));
    let pairs = inverted.values().iter().zip(least.values());
    let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-6);
    assert_eq!(apply("invert:strength=0"), ramp());
    let half = apply("invert:strength=0.5");
    assert!(half.values().iter().all(|v| (v - 0.5).abs() < 1e-6));
    // Brightness decides for all channels alike.
    let gray = apply("gray");
    assert!((0..30).all(|at| gray.values()[at] == gray.values()[30 + at]));
}

#[test]
fn the_other_picture_gives_range_and_polarity() {
    let chain: FilterChain = "match-polarity|match-range".parse().unwrap();
    let dark = Pixels::from_fn(1, 4, 4, |_, y, x| if y == 1 && x == 1 { 1.0 } else { 0.2 });
    let light = Pixels::from_fn(1, 4, 4, |_, y, x| if y == 2 && x == 2 { 0.3 } else { 0.9 });
    let made = chain.apply(dark.clone(), Some(&light)).unwrap();
    let nearly = |a: f32, b: f32| (a - b).abs() < 1e-6;
    assert!(
        nearly(made.get(0, 1, 1), 0.3) && nearly(made.get(0, 0, 0), 0.9),
        "{made:?}"
    );
    let same = chain.apply(dark.clone(), Some(&dark)).unwrap();
    let kept = same.values().iter().zip(dark.values());
    assert!(kept.into_iter().all(|(a, b)| nearly(*a, *b)));
    let flat = Pixels::from_fn(1, 4, 4, |_, _, _| 0.4);
    assert!(chain.apply(flat, Some(&light)).is_ok());
    let alone = chain.apply(dark, None).unwrap_err().to_string();
    assert!(alone.contains("match-polarity") && alone.contains("no other picture"));
}

/// The structure has the polarity and the range of the appearance after its tonal filters; a blur does not count.
#[test]
fn the_structure_is_compared_with_the_filtered_appearance() {
    let family = pixel_filters();
    let dark = Pixels::from_fn(1, 4, 4, |_, y, x| if y == 1 && x == 1 { 1.0 } else { 0.2 });
    let light = Pixels::from_fn(1, 4, 4, |_, y, x| if y == 2 && x == 2 { 0.3 } else { 0.9 });
    let matched = FilterPrompt::new()
        .with_structure("match-polarity|match-range", &family)
        .unwrap();
    for (appearance, tonal) in [
        ("invert", "invert"),
        ("contrast:3", "contrast:3"),
        ("blur:1|invert|max", "invert"),
        ("blur:1", ""),
    ] {
        let prompt = matched
            .clone()
            .with_appearance(appearance, &family)
            .unwrap();
        let chain = FilterChain::parse(tonal, &family).unwrap();
        let toned = chain.apply(light.clone(), None).unwrap();
        let [structure, appearance] = prompt.filtered(dark.clone(), light.clone()).unwrap();
        let range = |picture: &Pixels| {
            let values = picture.values().iter().copied();
            [
                values.clone().fold(1.0, f32::min),
                values.fold(0.0, f32::max),
            ]
        };
        let [one, other] = [range(&structure), range(&toned)];
        let same = one.iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(same, "{one:?} {other:?}");
        // Its mark is light where that of the appearance is.
        let light_mark =
            |picture: &Pixels, at: usize| picture.get(0, at, at) > picture.get(0, 0, 0);
        assert_eq!(light_mark(&structure, 1), light_mark(&toned, 2));

        let device = Device::flex();
        let tensors = |picture: &Pixels| vec![picture.clone().into_tensor(&device)];
        let [structures, appearances] = prompt
            .filtered_all(tensors(&dark), tensors(&light))
            .unwrap();
        assert_eq!(Pixels::of_tensor(structures[0].clone()).unwrap(), structure);
        assert_eq!(
            Pixels::of_tensor(appearances[0].clone()).unwrap(),
            appearance
        );
    }
    let alone = matched.filtered_all(vec![dark.into_tensor(&Device::flex())], Vec::new());
    assert!(alone.unwrap_err().to_string().contains("no other picture"));
}

#[test]
fn a_mask_keeps_the_rest() {
    let chain: FilterChain = "invert".parse().unwrap();
    let mask = Pixels::from_fn(1, 6, 5, |_, _, x| if x < 2 { 1.0 } else { 0.0 });
    let made = chain.apply_within(ramp(), &mask, None).unwrap();
    assert!((made.get(1, 3, 1) - (1.0 - ramp().get(1, 3, 1))).abs() < 1e-6);
    assert_eq!(made.get(1, 3, 2), ramp().get(1, 3, 2));
    let small = Pixels::from_fn(1, 2, 2, |_, _, _| 1.0);
    let refused = chain.apply_within(ramp(), &small, None).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the mask has [2, 2] pixels (height, width), but the picture has [6, 5]"
    );
}

#[test]
fn no_filter_keeps_the_bits_of_a_tensor() {
    let device = Device::flex();
    let picture = ramp().into_tensor(&device) * 1.000_001;
    let same = FilterChain::default()
        .filter(picture.clone(), None)
        .unwrap();
    assert_eq!(same.to_data(), picture.to_data());
    let chain: FilterChain = "invert".parse().unwrap();
    let inverted = chain.filter(ramp().into_tensor(&device), None).unwrap();
    let again = chain.filter(inverted, None).unwrap();
    let difference = (again - ramp().into_tensor(&device)).abs().max();
    assert!(difference.into_scalar::<f32>() < 1e-6);
}

#[test]
fn wrong_chains_and_pictures_are_told() {
    let told = |chain: &str| match chain.parse::<FilterChain>() {
        Ok(chain) => chain.apply(ramp(), None).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    assert!(told("sepia").starts_with("there is no filter \"sepia\"; there are: "));
    assert!(told("contrast:amount=2").contains("has no option \"amount\""));
    assert!(told("invert||gray").contains("is no chain of filters"));
    assert!(told("invert:2").contains("is no chain of filters"));
    assert!(told("rank:4").contains("window of a filter"));
    assert!(told("rank:rank=9").contains("below 9"));
    assert!(told("max:0").contains("window of a filter"));
    assert!(told("blur:-1").contains("deviation of the blur"));
    assert!(told("kernel:[1,2]").contains("number of values of a kernel"));
    assert!(told("kernel:values=[1],scale=0").contains("scale of a kernel"));
    assert!(told("autocontrast:50").contains("cutoff"));
    assert!(told("invert:strength=2").contains("strength of a filter"));
    let chain: FilterChain = "invert".parse().unwrap();
    let outside = Pixels::from_fn(1, 1, 1, |_, _, _| 1.5);
    let refused = chain.apply(outside, None).unwrap_err().to_string();
    assert_eq!(
        refused,
        "a picture to filter must have values from 0 to 1, but one is 1.5"
    );
    let empty = Pixels::from_fn(1, 0, 3, |_, _, _| 0.0);
    assert!(matches!(chain.apply(empty, None), Err(FilterError::Empty)));
}
