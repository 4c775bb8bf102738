//! The sides of a grid as the value of a flag.

/// Sides such as `64x64`, 2 or 3 of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GridSides(pub Vec<usize>);

/// Parses them.
///
/// # Errors
/// If there are other than 2 or 3, or one is no whole number from 1.
pub fn grid_sides(text: &str) -> Result<GridSides, String> {
    let sides: Result<Vec<usize>, _> = text.split('x').map(str::parse).collect();
    match sides {
        Ok(sides) if matches!(sides.len(), 2 | 3) && !sides.contains(&0) => Ok(GridSides(sides)),
        _ => Err("expected 2 or 3 sides such as 64x64 or 32x32x32".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_parsed() {
        assert_eq!(grid_sides("64x32").unwrap().0, [64, 32]);
        assert_eq!(grid_sides("4x5x6").unwrap().0, [4, 5, 6]);
        for wrong in ["64", "0x4", "4x", "a x b", "1x2x3x4", ""] {
            assert!(grid_sides(wrong).is_err(), "{wrong}");
        }
    }
}
