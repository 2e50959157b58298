package rating

// GlobsMeet is tested against all short names.
var GlobsMeet = globsMeet
