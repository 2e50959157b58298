package chunker

// Weigh is the bytes that a second takes at most.
var Weigh = weigh

// MaxWeight is what a chunk of several seconds may weigh.
const MaxWeight = maxWeight
